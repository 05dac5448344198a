"""Points for what was bought: a board a day and one a week, in Redis."""

from quartet.leaderboard.model import Place, board
from quartet.leaderboard.service import Row, award, place_of, top

__all__ = ["Place", "Row", "award", "board", "place_of", "top"]
