"""What every room's `api.py` shares: who is asking, shapes, pages of a list, problems and idempotency."""
