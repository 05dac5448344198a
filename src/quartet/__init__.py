"""Quartet: an e-commerce backend over four stores, each doing what it does best."""

__version__ = "0.1.0"
