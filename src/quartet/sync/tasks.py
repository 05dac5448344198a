"""Running several tasks concurrently and ending them for certain."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def together(*works: Coroutine[Any, Any, object]) -> None:
    """Runs them until one ends, or this task is cancelled; then ends the others. Raises what that one raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)
    for task in done:
        task.result()


async def end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancels them, again and again: `asyncio.wait_for`, in a driver too, loses on Python 3.11 a cancellation that
    arrives with an answer, which is why an `asyncio.TaskGroup` could wait for ever."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=1)
        except asyncio.CancelledError:
            continue  # we are on our way out already
        finally:
            left = {task for task in left if not task.done()}
