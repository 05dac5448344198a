"""What the shop earned and what lies on its shelves: read-only SQL over PostgreSQL."""

from quartet.analytics.model import Group, Revenue, RevenueLine, StockReport
from quartet.analytics.store import revenue, stock_report

__all__ = ["Group", "Revenue", "RevenueLine", "StockReport", "revenue", "stock_report"]
