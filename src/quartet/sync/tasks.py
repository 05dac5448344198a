"""Running several tasks concurrently and ending them for certain."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def together(*works: Coroutine[Any, Any, object]) -> None:
    """Runs them until one ends, or this task is cancelled; then cancels the others. Raises what that one raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)
    for task in done:
        task.result()


async def end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancels tasks repeatedly until all have ended: on Python 3.11 `asyncio.wait_for`, also inside drivers, loses a
    cancellation that arrives together with a result; an `asyncio.TaskGroup` could then wait for ever."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=1)
        except asyncio.CancelledError:
            continue  # we are ending already
        finally:
            left = {task for task in left if not task.done()}
