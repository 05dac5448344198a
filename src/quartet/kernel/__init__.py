"""Errors, ids, money, clock and settings: what every room shares and nothing that does I/O."""
