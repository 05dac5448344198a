"""The purchase: place, pay, cancel, refund, and recover what was left open. Owns no store; speaks to several."""

from quartet.checkout.recovery import Report, recover
from quartet.checkout.service import cancel, capture, pay, place, receive, refresh, refund

__all__ = ["Report", "cancel", "capture", "pay", "place", "receive", "recover", "refresh", "refund"]
