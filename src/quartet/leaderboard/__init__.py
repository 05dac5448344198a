"""Points for what was bought: a board a day and one a week, in Redis."""

from quartet.leaderboard.model import Place
from quartet.leaderboard.service import forget, place_of, rebuild, settle_order
from quartet.leaderboard.store import PERIODS

__all__ = ["PERIODS", "Place", "forget", "place_of", "rebuild", "settle_order"]
