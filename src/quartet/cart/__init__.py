"""Carts of users and guests, in Redis.

The owner of a cart is a user's id, or the token issued to a guest. Checkout reads its `contents` and calls
`take_bought` once the order is paid; signing in calls `merge`.
"""

from quartet.cart.model import MOST_LINES, MOST_PIECES, CartFull, good_token, name_of, new_token
from quartet.cart.service import contents, forget, merge
from quartet.cart.store import lines, take_bought

__all__ = [
    "MOST_LINES",
    "MOST_PIECES",
    "CartFull",
    "contents",
    "forget",
    "good_token",
    "lines",
    "merge",
    "name_of",
    "new_token",
    "take_bought",
]
