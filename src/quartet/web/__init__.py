"""What every room's `api.py` shares: authentication, shapes, paging, problems and idempotency."""
