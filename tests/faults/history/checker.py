"""Whether a history of concurrent operations could have come from a shop that does one thing after the other.

The algorithm is Wing and Gong's ("Testing and Verifying Concurrent Objects", JPDC 1993): try every order of the
operations that respects time (what ended before another began comes first) and ask a sequential model whether it would
have answered so. Lowe's addition ("Testing for linearizability", CCPE 2017) makes it quick: a configuration, that is
which operations are done and the model's state, is never looked at twice.

Three things are ours. An operation has one or more *parts*, each a moment within its interval, since a payment is first
written down, then charged, then completed, and others may see the shop between. An operation without an answer has no
end: each of its parts may have happened at any time after it began, or never. And the history is cut into parts that
have no SKU in common, since a system is linearizable exactly when each of its independent objects is (Herlihy and Wing,
"Linearizability", TOPLAS 1990; Horn and Kroening's P-compositionality, FORTE 2015).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

State = Any  # hashable; what is in it only the model knows
# The states in which this moment may leave the shop; none: it is impossible.
Part = Callable[[State], Iterable[State]]

NEVER = math.inf
MOST_CONFIGURATIONS = 400_000


class Undecided(Exception):
    """The history is too long and too unsure to be decided."""


@dataclass(frozen=True)
class Operation:
    """`begin` and `end` in any unit; `end` is NEVER when nobody knows whether it happened. `label` is for people."""

    label: str
    begin: float
    end: float
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Verdict:
    """`possible`; if not, the longest order that still was, and what could not come next."""

    possible: bool
    looked_at: int
    prefix: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()

    def __str__(self) -> str:
        came, stuck = ([f"    {label}" for label in labels] for labels in (self.prefix, self.stuck))
        return "possible" if self.possible else "\n".join(["possible is", *came, "  then none of", *stuck])


Configuration = tuple[bytes, State]


def check(history: Iterable[Operation], start: State) -> Verdict:
    """Raises Undecided."""
    operations = sorted(history, key=lambda operation: operation.begin)
    assert all(operation.begin <= operation.end for operation in operations)
    first: Configuration = (bytes(len(operations)), start)
    before: dict[Configuration, tuple[Configuration, int] | None] = {first: None}
    stack, furthest = [first], first
    while stack:
        configuration = stack.pop()
        done, state = configuration
        unfinished = [n for n, op in enumerate(operations) if done[n] < len(op.parts)]
        horizon = min((operations[n].end for n in unfinished), default=NEVER)
        if horizon == NEVER:
            return Verdict(True, len(before))
        if sum(done) > sum(furthest[0]):
            furthest = configuration
        # Looked at first: what has to end first. What may never have happened comes last.
        for n in sorted(unfinished, key=lambda n: operations[n].end, reverse=True):
            operation = operations[n]
            if operation.begin > horizon:
                continue
            useless = state if operation.end == NEVER and done[n] == len(operation.parts) - 1 else None
            for after in operation.parts[done[n]](state):
                following = (done[:n] + bytes([done[n] + 1]) + done[n + 1 :], after)
                if after != useless and following not in before:
                    before[following] = (configuration, n)
                    stack.append(following)
        if len(before) > MOST_CONFIGURATIONS:
            raise Undecided(f"{len(operations)} operations")
    return Verdict(False, len(before), _prefix(before, furthest, operations), _stuck(furthest[0], operations))


def _prefix(
    before: dict[Configuration, tuple[Configuration, int] | None], last: Configuration, operations: Sequence[Operation]
) -> tuple[str, ...]:
    labels = []
    while step := before[last]:
        last, n = step
        labels.append(operations[n].label)
    return tuple(reversed(labels))


def _stuck(done: bytes, operations: Sequence[Operation]) -> tuple[str, ...]:
    unfinished = [op for n, op in enumerate(operations) if done[n] < len(op.parts)]
    horizon = min(op.end for op in unfinished)
    return tuple(op.label for op in unfinished if op.begin <= horizon)
