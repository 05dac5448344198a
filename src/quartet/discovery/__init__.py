"""What leads from one product to another: bestsellers, and what is bought together or alike."""

from quartet.discovery.service import count_all, run

__all__ = ["count_all", "run"]
