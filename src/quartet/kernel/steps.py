"""Named points between any two side effects, at which tests interrupt the work.

`await shop.step("payment started")` does nothing in production. A test kills the process there, or holds one request at
the critical point until another has passed it.
"""

from collections.abc import Awaitable, Callable

Step = Callable[[str], Awaitable[None]]


async def unwatched(_name: str) -> None:
    """Does nothing."""
