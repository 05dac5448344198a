"""The demo: a catalog of our own with its pictures, stock, and three people to sign in as."""

from quartet.demo.seed import SeedReport, Watch, seed

__all__ = ["SeedReport", "Watch", "seed"]
