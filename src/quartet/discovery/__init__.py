"""Recommendations: bestsellers, and products that are bought together or alike."""

from quartet.discovery.service import count_all, run

__all__ = ["count_all", "run"]
