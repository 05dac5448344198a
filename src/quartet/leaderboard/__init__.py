"""Points for what was bought: a board a day and one a week, in Redis."""

from quartet.leaderboard.model import Place
from quartet.leaderboard.service import Row, award, place_of, top

__all__ = ["Place", "Row", "award", "place_of", "top"]
