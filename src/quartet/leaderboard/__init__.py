"""Points for purchases: a daily and a weekly leaderboard, in Redis."""

from quartet.leaderboard.model import Place
from quartet.leaderboard.service import forget, place_of, rebuild, settle_order
from quartet.leaderboard.store import PERIODS

__all__ = ["PERIODS", "Place", "forget", "place_of", "rebuild", "settle_order"]
