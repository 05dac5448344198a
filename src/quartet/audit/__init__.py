"""`quartet check`: the stores compared with one another and with their own rules."""

from quartet.audit.model import RULES
from quartet.audit.report import show
from quartet.audit.service import check

__all__ = ["RULES", "check", "show"]
