"""The front of the house: request ids, who is asking, rate limits, limits of size and time, problems, metrics."""

from quartet.gateway.app import ROOMS, create_app
from quartet.gateway.system import MEANWHILE

__all__ = ["MEANWHILE", "ROOMS", "create_app"]
