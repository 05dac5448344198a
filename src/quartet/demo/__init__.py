"""The demo: a catalog of our own with its pictures, stock, three people to sign in as, and a tour of it all."""

from quartet.demo.logins import kept as kept_logins
from quartet.demo.seed import SeedReport, seed
from quartet.demo.tour import tour as walk_tour

__all__ = ["SeedReport", "kept_logins", "seed", "walk_tour"]
