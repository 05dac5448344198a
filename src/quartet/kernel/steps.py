"""Points at which work can be interrupted: between any two side effects stands a named step.

`await shop.step("payment started")` does nothing in production. A test stops there: it kills the process, or holds one
request at the critical point until another has passed.
"""

from collections.abc import Awaitable, Callable

Step = Callable[[str], Awaitable[None]]


async def unwatched(_name: str) -> None:
    """Does nothing."""
