"""Whether somebody has an account can't be told by the clock: known and unknown addresses take the same time."""

import os
import random
import statistics
import time
from typing import Any

import pytest

from floor import Floor
from quartet import accounts
from quartet.accounts import passwords
from quartet.kernel.settings import Settings

SEED = int(os.environ.get("QUARTET_TEST_SEED", "20260131"))
PAIRS = 40
# 40 and 40 of the same distribution lie further from one half than this once in a thousand tries; an address that is
# let off without argon2's work lies at 0 or 1.
FAR = 0.21
TRIES = 3


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """No limits: this is about the work."""
    unlimited = {name: 10**9 for name in Settings.model_fields if name.startswith("limit_")}
    return settings.model_copy(update=unlimited)


def _advantage(known: list[float], unknown: list[float]) -> float:
    """Mann and Whitney's U over all pairs: how often the known one took longer; one half when nothing can be told."""
    wins = sum((k > u) + (k == u) / 2 for k in known for u in unknown)
    return wins / (len(known) * len(unknown))


async def test_the_clock_tells_nobody_who_has_an_account(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"seed {SEED}")
    draw, hashed = random.Random(SEED), await accounts.hash_password(floor.shop, "correct horse battery")
    worked: list[object] = []
    asked = passwords._ask

    def watched(*question: Any) -> Any:
        worked.append(question)
        return asked(*question)

    monkeypatch.setattr(passwords, "_ask", watched)
    for path, body, status in (
        ("/sessions", {"password": "the wrong battery"}, 401),
        ("/password-resets", {}, 202),
    ):
        seen: list[tuple[float, float]] = []
        for attempt in range(TRIES):
            known = [f"known{attempt}{n}{path[1]}@example.com" for n in range(PAIRS)]
            async with floor.shop.stores.pg.tx() as tx:
                for address in known:
                    await accounts.create_user(tx, address, hashed)
            calls = [(True, address) for address in known]
            calls += [(False, address.replace("known", "never")) for address in known]
            draw.shuffle(calls)
            took: dict[bool, list[float]] = {True: [], False: []}
            worked.clear()
            for is_known, address in calls:
                took[is_known].append(await _seconds(floor, path, body | {"email": address}, status))
            if path == "/sessions":
                assert len(worked) == len(calls)  # argon2's work was done for each
            seen.append((_advantage(took[True], took[False]), _difference(took)))
            if abs(seen[-1][0] - 0.5) < FAR:
                break
        print(path, [f"advantage {a:.2f}, medians {d:+.1%} apart" for a, d in seen])
        assert abs(seen[-1][0] - 0.5) < FAR, (path, seen)


async def _seconds(floor: Floor, path: str, body: dict[str, Any], status: int) -> float:
    began = time.perf_counter()
    answer = await floor.guest.post(path, json=body)
    took = time.perf_counter() - began
    assert answer.status_code == status, answer.text
    return took


def _difference(took: dict[bool, list[float]]) -> float:
    known, unknown = statistics.median(took[True]), statistics.median(took[False])
    return (known - unknown) / unknown
