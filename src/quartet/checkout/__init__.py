"""The purchase: place, pay, cancel, refund, and recover what was left open. Owns no store; speaks to several."""

from quartet.checkout.recovery import recover

__all__ = ["recover"]
