"""`quartet up` when things go wrong: one clear line with what to do, nothing left behind, all data kept."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import asyncpg
import httpx
import psutil
import pytest
from old_search import elasticsearch_6

from quartet.devstores import Place, postgres
from quartet.kernel.settings import Settings
from quartet.supervise import settings_of_running

READY = "Ctrl-C stops everything"
LITTLE = (sys.executable, str(Path(__file__).with_name("little_up.py")))
WHOLE = (sys.executable, "-m", "quartet.cli", "up", "--empty")
SECONDS = 90.0


class Up:
    """A `quartet up` of its own session, as one started from a terminal has, and what it said so far."""

    def __init__(self, process: asyncio.subprocess.Process, data: Path) -> None:
        self.process = process
        self.data = data
        self.said = ""

    async def until(self, *words: str) -> str:
        """Read on until each of `words` was said, in any order; the lines read."""
        assert self.process.stdout is not None
        read = ""
        async with asyncio.timeout(SECONDS):
            while line := (await self.process.stdout.readline()).decode():
                self.said += line
                read += line
                if all(word in read for word in words):
                    return read
        raise AssertionError(f"never said {words!r}:\n{self.said}")

    async def end(self) -> int:
        """Wait until it ends by itself; its status."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            self.said += (await self.process.stdout.read()).decode()
            return await self.process.wait()

    async def ctrl_c(self) -> int:
        """What a terminal sends: an interrupt to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)
        return await self.end()

    def pid(self, name: str) -> int:
        return int(json.loads((self.data / "run" / f"{name}.json").read_text())["pid"])

    def noted(self) -> dict[str, str]:
        """What other commands are told of it."""
        noted: dict[str, str] = json.loads((self.data / "up.json").read_text())
        return noted

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


Start = Callable[..., Awaitable[Up]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """`await start(*what goes wrong)`: an `up` on this test's data folder, of the little programs or the whole shop."""
    started: list[Up] = []
    data = tmp_path / "data"

    async def start(
        *words: str, port: int = 0, data: Path = data, env: dict[str, str] | None = None, whole: bool = False
    ) -> Up:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("QUARTET_")}
        program = (*WHOLE, "--data", str(data), "--port", str(port)) if whole else (*LITTLE, str(data), str(port))
        process = await asyncio.create_subprocess_exec(
            *(*program, *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
            env=clean | {"QUARTET_DEV_SEARCH": "osmem"} | (env or {}),
            start_new_session=True,
        )
        started.append(Up(process, data))
        return started[-1]

    yield start
    for up in started:
        if up.process.returncode is None:
            up.process.send_signal(signal.SIGCONT)
            up.process.terminate()
            try:
                await up.end()
            finally:
                with suppress(ProcessLookupError):
                    up.process.kill()
    postgres.discard(Place(data))


async def test_it_shows_what_it_started_refuses_a_second_and_ctrl_c_stops_everything(start: Start) -> None:
    up = await start()
    await up.until(READY)
    for shown in ("PostgreSQL", "Valkey", "nx-27017", "osmem", "/docs", "shopper@demo.test", "correct-horse"):
        assert shown in up.said
    assert "quartet:" not in up.said, "passwords of stores are not shown"
    family = up.family()
    assert len(family) >= 6

    second = await start()
    assert await second.end() == 1
    assert f"another `quartet up` (process {up.process.pid}) uses {up.data}; stop it, or choose another" in second.said
    assert second.said.count("\n") == 1
    assert all(child.is_running() for child in family)

    assert await up.ctrl_c() == 0
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert "stopped; all data is kept" in up.said
    assert not (up.data / "up.json").exists()


@pytest.mark.timeout(600)
async def test_the_whole_shop_answers_and_other_commands_find_it(start: Start) -> None:
    up = await start(whole=True)
    await up.until(READY)
    address = up.noted()["base_url"]
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as client:
        health = (await client.get("/health/ready")).json()
        assert health["status"] == "ready", health
        assert (await client.get("/docs")).status_code == 200
        assert (await client.get("/products")).json()["items"] == [], "--empty loads no demo data"
    found = settings_of_running(Settings(_env_file=None, data_dir=up.data))
    assert found["base_url"] == address
    assert found["postgres_url"] == up.noted()["postgres_url"]
    assert "redis_url" not in settings_of_running(
        Settings(_env_file=None, data_dir=up.data, redis_url="redis://elsewhere")
    )
    family = up.family()
    assert family
    assert await up.ctrl_c() == 0
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert settings_of_running(Settings(_env_file=None, data_dir=up.data)) == {}


async def test_ctrl_c_while_it_starts_leaves_nothing_behind(start: Start) -> None:
    up = await start()
    family = await _eventually(up.family)  # the first server is being started
    assert await up.ctrl_c() == 0
    assert psutil.wait_procs(family, timeout=30)[1] == []
    up = await start()
    await up.until(READY)
    assert await up.ctrl_c() == 0


async def test_a_terminal_that_closes_stops_it_too(start: Start) -> None:
    up = await start()
    await up.until(READY)
    family = up.family()
    assert family
    os.kill(up.process.pid, signal.SIGHUP)
    assert await up.end() == 0
    assert psutil.wait_procs(family, timeout=30)[1] == []


async def test_where_the_data_was_deleted_none_is_said_to_be_kept(start: Start) -> None:
    up = await start()
    await up.until(READY)
    up.data.rename(up.data.with_name("taken away"))
    assert await up.ctrl_c() == 0
    assert f"stopped; {up.data} is gone, and what it kept with it" in up.said
    assert "all data is kept" not in up.said
    postgres.discard(Place(up.data.with_name("taken away")))


async def test_where_the_data_was_deleted_what_ends_is_not_started_again(start: Start) -> None:
    up = await start()
    await up.until(READY)
    family, worker = up.family(), up.pid("worker")
    up.data.rename(up.data.with_name("taken away"))
    os.kill(worker, signal.SIGKILL)
    assert await up.end() == 1
    assert f"{up.data} is gone, and what it kept with it: the next `quartet up` makes a new one" in up.said
    assert "Traceback" not in up.said
    assert psutil.wait_procs(family, timeout=30)[1] == []


async def test_after_a_kill_the_next_start_has_all_data(start: Start) -> None:
    up = await start()
    await up.until(READY)
    connection = await asyncpg.connect(up.noted()["postgres_url"])
    await connection.execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (7)")
    secret = up.noted()["secret"]
    up.process.kill()
    await up.process.wait()
    await connection.close(timeout=1)

    again = await start()
    await again.until(READY)
    connection = await asyncpg.connect(again.noted()["postgres_url"])
    assert await connection.fetchval("SELECT id FROM orders") == 7
    await connection.close()
    assert again.noted()["secret"] == secret, "tokens stay valid"
    assert await again.ctrl_c() == 0


async def test_a_port_in_use_is_said_before_anything_is_started(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = await start(port=port)
        assert await up.end() == 1
    assert f"port {port} is in use" in up.said
    assert f"process {os.getpid()}): stop that, or choose another with --port" in up.said
    assert not (up.data / "run").exists()


async def test_a_nearly_full_disk_is_said_before_anything_is_started(start: Start) -> None:
    up = await start("nearly full disk")
    assert await up.end() == 1
    assert f"MB are free for {up.data}" in up.said
    assert "make room, or choose another folder with --data" in up.said
    assert not (up.data / "run").exists()


async def test_a_disk_that_fills_up_is_said_in_one_line(start: Start) -> None:
    up = await start("full disk")
    await up.until("prepared")
    family = up.family()
    assert family
    assert await up.end() == 1
    assert f"the disk of {up.data} is full: make room, then start again" in up.said
    assert psutil.wait_procs(family, timeout=30)[1] == []


async def test_a_folder_that_cannot_be_made_is_said_in_one_line(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    up = await start(data=tmp_path / "file" / "data")
    assert await up.end() == 1
    assert "can't be written: choose another with --data" in up.said
    up = await start(data=Path("/proc/quartet"))
    assert await up.end() == 1
    assert re.fullmatch(r"/proc/quartet can't be (made|written): choose another with --data", up.said.strip())


async def test_without_java_it_says_that_osmem_is_used_and_what_to_install(start: Start, tmp_path: Path) -> None:
    up = await start(env={"QUARTET_DEV_SEARCH": "auto", "PATH": str(tmp_path), "JAVA_HOME": ""})
    await up.until(READY)
    assert "Search runs on osmem, in memory" in up.said
    assert "install a JDK of Java 17 or newer and Maven" in up.said
    assert await up.ctrl_c() == 0


async def test_a_given_store_that_does_not_answer_is_said_and_what_was_started_is_stopped(start: Start) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        up = await start(env={"QUARTET_REDIS_URL": f"redis://app:hidden@{address}/0"})
        assert await up.end() == 1
    assert f"redis does not answer at redis://app@{address}/0" in up.said
    assert "QUARTET_REDIS_URL" in up.said
    assert "hidden" not in up.said
    assert all("pid" not in record.read_text() for record in (up.data / "run").iterdir())


async def test_a_given_store_that_is_too_old_is_said(start: Start) -> None:
    with elasticsearch_6() as url:
        up = await start(env={"QUARTET_SEARCH_URL": url})
        assert await up.end() == 1
    assert f"search at {url} is elasticsearch 6.8.0: elasticsearch 8 or newer is needed" in up.said


async def test_an_api_that_cannot_start_is_quoted(start: Start) -> None:
    up = await start("failing API")
    assert await up.end() == 1
    assert f"the API ended at once: no such queue — see {up.data}/logs/api.log" in up.said


async def test_a_worker_that_keeps_ending_ends_the_whole(start: Start) -> None:
    up = await start("failing worker")
    assert await up.end() == 1
    assert up.said.count("worker ended (status 1: no such queue), starting it again") == 3
    assert "worker ended 4 times within a minute" in up.said


async def test_a_killed_worker_api_and_store_are_started_again(start: Start) -> None:
    up = await start()
    await up.until(READY)
    before = up.noted()
    for name in ("worker", "api", "postgres"):
        gone = up.pid(name)
        os.kill(gone, signal.SIGKILL)
        line = await up.until(f"{name} ended")
        assert f"{name} ended (SIGKILL), starting it again — see {up.data}/logs/{name}.log" in line
        await up.until(f"{name} runs again")
        assert up.pid(name) != gone
    assert up.noted() == before
    connection = await asyncpg.connect(before["postgres_url"])
    await connection.close()
    assert await up.ctrl_c() == 0


async def test_a_store_that_keeps_nothing_is_filled_again(start: Start) -> None:
    up = await start()
    await up.until(READY)
    os.kill(up.pid("search"), signal.SIGKILL)
    await up.until("search ended")
    await up.until(f"prepared {up.noted()['search_url']}")
    await up.until("search runs again")
    assert await up.ctrl_c() == 0


async def test_a_store_that_must_move_takes_api_and_worker_along(start: Start) -> None:
    up = await start()
    await up.until(READY)
    port = int(up.noted()["redis_url"].split(":")[2].split("/")[0])
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        up.process.send_signal(signal.SIGSTOP)  # so that the port is taken before it can be taken again
        await _eventually(lambda: psutil.Process(up.process.pid).status() == psutil.STATUS_STOPPED)
        server = psutil.Process(up.pid("redis"))
        server.kill()
        await _eventually(lambda: _gone(server))
        await _eventually(lambda: _bound(taker, port))
        taker.listen()
        up.process.send_signal(signal.SIGCONT)
        await up.until("redis had to take another port", "redis runs again", "worker runs again", "api runs again")
    noted = up.noted()
    assert not noted["redis_url"].endswith(f":{port}/0")
    told = await _eventually(lambda: _text(noted["base_url"]))
    assert told == noted["redis_url"], "the API was started anew with the new address"
    assert await up.ctrl_c() == 0


def _bound(taker: socket.socket, port: int) -> bool:
    """A process that is dead by name has its port until the last of its threads has ended."""
    try:
        taker.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _text(url: str) -> str:
    try:
        return httpx.get(url, trust_env=False).text
    except httpx.TransportError:
        return ""


Seen = TypeVar("Seen")


async def _eventually(look: Callable[[], Seen]) -> Seen:
    """What `look` finds once it finds something; another process has no event to wait for."""
    async with asyncio.timeout(SECONDS):
        while not (seen := look()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return seen
