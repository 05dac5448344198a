"""The gateway: request ids, authentication, rate limits, limits of size and time, problems (RFC 9457), metrics."""

from quartet.gateway.app import ROOMS, create_app
from quartet.gateway.system import MEANWHILE

__all__ = ["MEANWHILE", "ROOMS", "create_app"]
