"""Four stores of one's own, to be killed and frozen by process id."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from conftest import tell_family
from quartet import audit
from quartet.devstores import Place, Running, mongo, postgres, redis
from quartet.devstores import search as search_engine
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Shop

STORES = ("postgres", "mongodb", "redis", "search")
# The canary sings each second, and on a busy machine a batch of the worker takes longer than that: then one of its
# events is always there. But what it sang before has to be carried too.
ON_ITS_WAY = """
SELECT topic, attempts, extract(epoch FROM now() - created_at)::int AS seconds FROM outbox
WHERE topic <> 'canary.sung' OR created_at < $1 ORDER BY id LIMIT 10
"""


class OwnStores:
    """Running servers by name. They come back on the port that they had."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._starts: dict[str, Callable[[], Awaitable[Running]]] = {
            "postgres": lambda: postgres.start(place),
            "mongodb": lambda: mongo.start(place),
            "redis": lambda: redis.start(place),
            "search": lambda: search_engine.start(place, "osmem"),
        }
        self._running: dict[str, Running] = {}
        self._frozen: set[str] = set()
        self.urls: dict[str, str] = {}

    async def start(self, name: str) -> None:
        """Starts it, anew if it was killed."""
        running = await self._starts[name]()
        assert self.urls.setdefault(name, running.server.url) == running.server.url, f"{name} came back elsewhere"
        self._running[name] = running

    async def kill(self, name: str) -> None:
        """As a power cut does: the server and whatever it started."""
        running = self._running.pop(name)
        tell_family(running.server.pid, signal.SIGKILL)
        await running.child.wait()

    def freeze(self, name: str) -> None:
        """It keeps its connections and says nothing any more."""
        tell_family(self._running[name].server.pid, signal.SIGSTOP)
        self._frozen.add(name)

    def thaw(self, name: str) -> None:
        """It goes on."""
        tell_family(self._running[name].server.pid, signal.SIGCONT)
        self._frozen.discard(name)

    async def mend(self) -> None:
        """Whatever is down or frozen works again."""
        for name in list(self._frozen):
            self.thaw(name)
        await asyncio.gather(*(self.start(name) for name in STORES if name not in self._running))

    async def stop(self) -> None:
        """The end."""
        for name in list(self._frozen):
            self.thaw(name)
        await asyncio.gather(*(running.stop() for running in self._running.values()))
        await asyncio.to_thread(postgres.discard, self._place)


@asynccontextmanager
async def own_stores(folder: Path) -> AsyncIterator[OwnStores]:
    """All four, started; what is left of them is stopped at the end. As careful as in production: what is killed keeps
    what it said it had."""
    stores = OwnStores(Place(folder))
    try:
        await stores.mend()
        yield stores
    finally:
        await stores.stop()


def settings_over(urls: dict[str, str], folder: Path, secret: str) -> Settings:
    """A shop's settings on these stores, nobody limited."""
    kinds = ("browse", "search", "write", "auth", "pay", "sign_in_failures", "address_failures")
    unlimited = {f"limit_{kind}": 10**9 for kind in kinds}
    return Settings(
        _env_file=None,
        postgres_url=urls["postgres"],
        mongodb_url=urls["mongodb"],
        redis_url=urls["redis"],
        search_url=urls["search"],
        secret=secret,
        data_dir=folder,
        **unlimited,  # type: ignore[arg-type]
    )


async def agree(shop: Shop, over: datetime) -> bool:
    """Whether the stores do, and nothing is on its way; of the canary nothing from before `over`, the end of the
    outages. What is not yet as it should be is printed."""
    try:
        report = await audit.check(shop, patience=5)
    except StoreUnavailable as away:  # osmem keeps its index in memory: the worker is making it anew
        print(away)
        return False
    print(f"{len(report.violations)} violations, such as {report.violations[:2]}")
    async with shop.stores.pg.read() as read:
        on_its_way = [tuple(row) for row in await read.fetch(ON_ITS_WAY, over)]
    print(f"on its way: {on_its_way}")
    return not report.violations and not on_its_way
