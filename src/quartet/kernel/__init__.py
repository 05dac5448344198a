"""Errors, ids, money, clock and settings: what all packages share, and nothing that does I/O."""
