"""Recommendations: bestsellers, products bought together, and similar products."""

from quartet.discovery.service import count_all, run

__all__ = ["count_all", "run"]
