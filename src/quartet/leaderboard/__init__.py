"""Points for what was bought: a board a day and one a week, in Redis."""

from quartet.leaderboard.model import Place, board
from quartet.leaderboard.service import Row, forget, place_of, rebuild, settle_order, top
from quartet.leaderboard.store import PERIODS

__all__ = ["PERIODS", "Place", "Row", "board", "forget", "place_of", "rebuild", "settle_order", "top"]
