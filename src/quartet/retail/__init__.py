"""A real retailer's year of sales: imported as the shop's history, and its baskets bought again over HTTP.

`import_retail` imports it, `verify` compares the books with the file, `replay` buys its baskets over HTTP.
"""

from quartet.retail.console import run_import, run_replay, watching
from quartet.retail.dataset import SHIPPED, NotTheRetailersFile
from quartet.retail.replay import Basket, baskets, replay
from quartet.retail.report import pounds
from quartet.retail.service import import_retail
from quartet.retail.store import has_month
from quartet.retail.verify import verify

__all__ = [
    "SHIPPED",
    "Basket",
    "NotTheRetailersFile",
    "baskets",
    "has_month",
    "import_retail",
    "pounds",
    "replay",
    "run_import",
    "run_replay",
    "verify",
    "watching",
]
