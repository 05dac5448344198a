"""The demo: a catalog of its own with images, stock, three logins, and a guided tour."""

from quartet.demo.logins import kept as kept_logins
from quartet.demo.seed import SeedReport, seed
from quartet.demo.tour import tour as walk_tour

__all__ = ["SeedReport", "kept_logins", "seed", "walk_tour"]
