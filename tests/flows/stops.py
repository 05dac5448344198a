"""Work that stops at a step with a name (`kernel/steps.py`): it dies there, or stands still until it may go on."""

import asyncio

from quartet.kernel.steps import Step


class Killed(BaseException):
    """As if the process had ended."""


def dies_at(step: str, times: int = 1) -> Step:
    """Whoever comes to this step so often is dead; those after it pass."""
    left = times

    async def dies(name: str) -> None:
        nonlocal left
        if name == step:
            left -= 1
            if left == 0:
                raise Killed

    return dies


class Held:
    """Whoever comes to one step stands still there until it may `go_on`."""

    def __init__(self, at: str) -> None:
        self._at, self.reached, self.go_on = at, asyncio.Event(), asyncio.Event()

    async def step(self, name: str) -> None:
        if name == self._at:
            self.reached.set()
            await self.go_on.wait()
