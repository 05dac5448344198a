"""The purchase: place, pay, cancel, refund, and recovery of what was left open. Owns no store; coordinates other
packages."""

from quartet.checkout.recovery import recover

__all__ = ["recover"]
