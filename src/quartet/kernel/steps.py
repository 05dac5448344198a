"""Where work can be cut short: between any two effects stands a step with a name.

`await shop.step("payment started")` does nothing in a shop that runs. A test stops there: it kills the process, or
holds one request at the dangerous point until another has passed.
"""

from collections.abc import Awaitable, Callable

Step = Callable[[str], Awaitable[None]]


async def unwatched(_name: str) -> None:
    """Goes on."""
