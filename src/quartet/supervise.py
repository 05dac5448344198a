"""`quartet up`: local servers for stores without a URL, then the API and the sync worker, until Ctrl-C.

A process that dies is reported and restarted on its port; one that keeps dying ends everything. Everything started here
is stopped here, in order: API, worker, stores.
"""

import asyncio
import errno
import json
import secrets
import shutil
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from time import monotonic, perf_counter
from urllib.parse import urlsplit

import httpx
import psutil
from pydantic import SecretStr
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from quartet import devstores
from quartet.devstores import Child, Command, LocalServer, Place, Running, StartError, mongo, postgres, redis, search
from quartet.devstores.jvm import Report
from quartet.kernel.errors import Problem
from quartet.kernel.settings import Settings

LEAST_FREE_BYTES = 200 * 1024 * 1024
RESTARTS_A_MINUTE = 3
READY_SECONDS = 120.0  # a busy machine takes half a minute to load the API
STORES = ("postgres", "mongodb", "redis", "search")
QUARTET = (sys.executable, "-m", "quartet.cli")
PROGRAMS = {"worker": (*QUARTET, "worker"), "api": (*QUARTET, "serve")}

Prepare = Callable[[Settings, Console], Awaitable[Mapping[str, str]]]
"""Brings the stores up to date (migrations, index, first demo data) and gives the demo logins, address to password.

It is called again when a store that keeps nothing had to be started anew, so it does only what is missing.
"""
Restart = Callable[[], Awaitable[Child]]


@dataclass
class Service:
    """A supervised process: how to restart it, and when it was restarted recently."""

    child: Child
    restart: Restart
    restarts: deque[float] = field(default_factory=deque)

    def restarts_lately(self) -> int:
        """The number of restarts within the last minute."""
        while self.restarts and monotonic() - self.restarts[0] > 60.0:
            self.restarts.popleft()
        return len(self.restarts)


class Supervisor:
    """Starts, watches and stops the processes of one data folder."""

    def __init__(
        self,
        settings: Settings,
        place: Place,
        prepare: Prepare,
        console: Console,
        programs: Mapping[str, Sequence[str]],
    ) -> None:
        self.settings = settings
        self.place = place
        self.servers: dict[str, LocalServer] = {}
        self._prepare = prepare
        self._console = console
        self._programs = programs
        self._services: dict[str, Service] = {}  # in the order in which they were started
        self._stopping = False

    async def start(self) -> Mapping[str, str]:
        """Starts the stores, prepares them, starts API and worker; returns the demo logins. Raises StartError."""
        await self._start_stores()
        await self._check_given_stores()
        logins = await self._prepare(self.settings, self._console)
        for name in self._programs:
            self._services[name] = Service(await self._launch(name), partial(self._launch, name))
        with self._console.status("starting the API"):
            await self._wait_until_ready()
        return logins

    async def watch(self) -> None:
        """Restarts processes that end by themselves. Never returns; raises StartError if one ends again and again."""
        try:
            async with asyncio.TaskGroup() as group:
                for name in self._services:
                    group.create_task(self._watch(name))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def stop(self) -> None:
        """Stops API, worker and stores, in this order."""
        self._stopping = True
        for name in ("api", "worker"):
            if name in self._services:
                await self._services.pop(name).child.stop()
        await asyncio.gather(*(service.child.stop() for service in self._services.values()))
        self._services.clear()

    async def _start_stores(self) -> None:
        missing = [name for name in STORES if not getattr(self.settings, f"{name}_url")]
        failures: list[StartError | OSError] = []
        with _progress(self._console) as progress:

            async def start(name: str) -> None:
                line = progress.add_task(f"starting {name}", total=1)
                told: set[str] = set()

                def report(text: str) -> None:
                    progress.update(line, description=text)
                    step = text.partition(",")[0]  # without the count
                    if not self._console.is_terminal and step not in told:
                        told.add(step)
                        self._say(step)

                try:
                    running = await self._start_store(name, report)
                except (StartError, OSError) as failure:  # collected, to raise one of them instead of a group
                    failures.append(failure)
                    return
                self.servers[name] = running.server
                progress.update(line, completed=1, description=f"{name}: {running.server.engine}")

            async with asyncio.TaskGroup() as group:
                for name in missing:
                    group.create_task(start(name))
        for failure in failures:
            raise failure
        urls = {f"{name}_url": server.url for name, server in self.servers.items()}
        self.settings = self.settings.model_copy(update=urls)

    async def _start_store(self, name: str, report: Report) -> Running:
        async def start() -> Running:
            match name:
                case "postgres":
                    return await postgres.start(self.place)
                case "mongodb":
                    return await mongo.start(self.place)
                case "redis":
                    return await redis.start(self.place)
                case _:
                    return await search.start(self.place, self.settings.dev_search, report)

        async def restart() -> Child:
            running = await start()
            await self._adopt_restarted(running.server)
            return running.child

        running = await start()
        self._services[name] = Service(running.child, restart)
        return running

    async def _adopt_restarted(self, server: LocalServer) -> None:
        """After a store was restarted: prepares it again if it keeps no data, and restarts API and worker if its port
        changed."""
        moved = self.servers[server.name].url != server.url
        self.servers[server.name] = server
        self.settings = self.settings.model_copy(update={f"{server.name}_url": server.url})
        if not server.keeps_data:
            await self._prepare(self.settings, self._console)
        if moved:
            self._say(f"{server.name} had to take another port, so API and worker are started anew")
            write_running_note(self.settings)
            for name in ("api", "worker"):
                if name in self._services:
                    await self._services[name].child.stop()

    async def _check_given_stores(self) -> None:
        """Raises StartError unless all stores with a given URL answer and are recent enough."""
        given = [name for name in STORES if name not in self.servers]
        if not given:
            return
        # Imported here: the clients take two seconds to load, needed only with given stores.
        from quartet.stores import open_stores, ping_all, too_old
        from quartet.stores.trouble import reason

        began = perf_counter()
        async with open_stores(self.settings) as stores:
            versions = await ping_all(stores)
        for name in given:
            url, version = str(getattr(self.settings, f"{name}_url")), versions[name]
            if isinstance(version, Exception):
                raise StartError(
                    f"{name} does not answer at {without_password(url)} ({reason(version)}): start it, correct "
                    f"QUARTET_{name.upper()}_URL, or leave it unset to have a local one"
                )
            if needed := too_old(name, version):
                raise StartError(f"{name} at {without_password(url)} is {version}: {needed}")
            self.servers[name] = LocalServer(
                name, "as given", version, url, 0, perf_counter() - began, self.place.log(name)
            )

    async def _launch(self, name: str) -> Child:
        """Starts the API or the worker, with the settings decided here in its environment."""
        settings = self.settings
        env = {f"QUARTET_{store.upper()}_URL": str(getattr(settings, f"{store}_url")) for store in STORES}
        env |= {
            "QUARTET_SECRET": settings.secret.get_secret_value(),
            "QUARTET_DATA_DIR": str(self.place.data),
            "QUARTET_HOST": settings.host,
            "QUARTET_PORT": str(settings.port),
            "QUARTET_BASE_URL": settings.base_url,
            "QUARTET_SERVER_TIMING": "true",  # harmless on one's own machine
        }
        port = settings.port if name == "api" else None
        return devstores.launch(self.place, name, Command(self._programs[name], env), port=port)

    async def _wait_until_ready(self) -> None:
        api = self._services["api"].child
        async with httpx.AsyncClient(base_url=local_address(self.settings), timeout=5.0, trust_env=False) as client:
            deadline, said = monotonic() + READY_SECONDS, "no answer"
            while monotonic() < deadline:
                if not api.alive:
                    raise StartError(f"the API ended at once: {api.last_error_line()} — see {api.log}")
                with suppress(httpx.HTTPError):
                    answer = await client.get("/health/ready")
                    if answer.status_code == 200:
                        return
                    said = answer.text[:300]
                await asyncio.sleep(0.1)
        raise StartError(f"the API was not ready within {READY_SECONDS:.0f} s ({said}) — see {api.log}")

    async def _watch(self, name: str) -> None:
        service = self._services[name]
        while True:
            child = service.child
            status = await child.wait()
            if self._stopping:
                return
            lately = service.restarts_lately()
            if lately == RESTARTS_A_MINUTE:
                raise StartError(
                    f"{name} ended {RESTARTS_A_MINUTE + 1} times within a minute ({child.last_error_line()}), "
                    f"so everything is stopped — see {child.log}"
                )
            _check_disk(self.place.data)
            how = signal.Signals(-status).name if status < 0 else f"status {status}: {child.last_error_line()}"
            self._say(f"{name} ended ({how}), starting it again — see {child.log}")
            await child.stop()
            await asyncio.sleep(2**lately - 1)  # at once, then after 1 and 3 seconds
            service.restarts.append(monotonic())
            service.child = await service.restart()
            self._say(f"{name} runs again")

    def _say(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


async def up(
    settings: Settings, prepare: Prepare, console: Console, programs: Mapping[str, Sequence[str]] = PROGRAMS
) -> int:
    """Runs the whole shop until Ctrl-C or SIGTERM; returns the exit status. `programs` are the API's and the worker's.

    A failure to run is reported in one line on `console` and gives exit status 1.
    """
    settings = settings.model_copy(update={"data_dir": settings.data_dir.expanduser().resolve()})
    interrupted = _cancel_on_signals(console)
    try:
        with _one_line_failures(settings.data_dir), devstores.lock_folder(_checked_folder(settings.data_dir)):
            await _run(settings, prepare, console, programs)
    except (StartError, Problem) as failure:
        console.print(str(failure), style="bold red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except asyncio.CancelledError:
        if not interrupted.is_set():
            raise
        console.print(_stopped_message(settings.data_dir), soft_wrap=True, highlight=False)
    return 0


def _stopped_message(data: Path) -> str:
    return "stopped; all data is kept" if data.exists() else f"stopped; {data} is gone, and what it kept with it"


async def _run(settings: Settings, prepare: Prepare, console: Console, programs: Mapping[str, Sequence[str]]) -> None:
    place = Place(settings.data_dir)
    left = await devstores.clear_leftovers(place)
    if left:
        console.print(f"stopped what an earlier run had left running: {', '.join(left)}")
    supervisor = Supervisor(_settled(settings), place, prepare, console, programs)
    try:
        logins = await supervisor.start()
        write_running_note(supervisor.settings)
        _show(supervisor, logins, console)
        await supervisor.watch()
    finally:
        _running_note(settings.data_dir).unlink(missing_ok=True)
        await supervisor.stop()


def settings_of_running(settings: Settings) -> dict[str, object]:
    """The values that a running `quartet up` on the same data folder has chosen and `settings` leaves open: URLs, port,
    secret.

    Empty if none is running. Values by setting's name, for `model_copy(update=…)`.
    """
    found = read_running_note(settings.data_dir.expanduser().resolve())
    if found:
        found["secret"] = SecretStr(str(found["secret"]))
    return {name: value for name, value in found.items() if _is_open(settings, name)}


def _is_open(settings: Settings, name: str) -> bool:
    """Whether a setting is not given. An empty value counts as not given, except port 0, which means any free port."""
    return name not in settings.model_fields_set or (name != "port" and not getattr(settings, name))


def read_running_note(data: Path) -> dict[str, object]:
    """The values chosen by a running `quartet up` on this data folder, by setting's name; empty if none is running."""
    with suppress(OSError, ValueError):
        found: dict[str, object] = json.loads(_running_note(data).read_text())
        if devstores.is_locked(data):
            return found
    return {}


def write_running_note(settings: Settings) -> None:
    """Writes the chosen values to a file for other commands of the same user; private, since it holds passwords."""
    names = [f"{store}_url" for store in STORES] + ["host", "port", "base_url"]
    settled = {name: getattr(settings, name) for name in names} | {"secret": settings.secret.get_secret_value()}
    devstores.write_private(_running_note(settings.data_dir), json.dumps(settled))


def without_password(url: str) -> str:
    """A URL that can be shown: without password, and without the query string, where drivers accept one too."""
    parts = urlsplit(url)
    host = parts.netloc.rsplit("@", 1)[-1]
    user = f"{parts.username}@" if parts.username else ""
    return parts._replace(netloc=user + host, query="").geturl()


def local_address(settings: Settings) -> str:
    """The API's URL on this machine: an address to listen on, such as 0.0.0.0, may not be one to connect to."""
    host = settings.host
    with suppress(ValueError):  # a host name is not an IP address
        address = ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def port_trouble(port: int, host: str, option: str = "--") -> tuple[str, str] | None:
    """Why a server can't listen there, and what to do about it; None if it can. `option`: the prefix of the options
    `port` and `host`."""
    error = devstores.why_closed(port, host)
    if error is None:
        return None
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} is in use ({_listener(port)})", f"stop that, or choose another with {option}port"
        case errno.EACCES:
            return f"port {port} is not open to this user", f"choose one above 1023 with {option}port"
        case _:
            why = f"this machine has no address {host} to listen on ({error.strerror})"
            return why, f"choose another with {option}host"


def _listener(port: int) -> str:
    """A description of the process that listens on the port."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, process {connection.pid}"
    return "another program"


def _settled(settings: Settings) -> Settings:
    """The settings with a free port, a base URL, and a secret, which is generated once and stored in the data
    folder."""
    port = settings.port or devstores.free_port()
    trouble = port_trouble(port, settings.host)
    if trouble:
        raise StartError(": ".join(trouble))
    update: dict[str, object] = {"port": port}
    if "base_url" not in settings.model_fields_set:
        update["base_url"] = local_address(settings.model_copy(update=update))
    if not settings.secret.get_secret_value():
        kept = settings.data_dir / "secret"
        if not kept.exists():
            devstores.write_private(kept, secrets.token_urlsafe(48))
        update["secret"] = SecretStr(kept.read_text().strip())
    return settings.model_copy(update=update)


def _checked_folder(data: Path) -> Path:
    """The data folder, created if necessary. Raises StartError if that fails or too little disk space is free."""
    try:
        data.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # despite parents=True: a file system without folders of users, such as /proc
        raise StartError(f"{data} can't be made: choose another with --data") from error
    _check_disk(data)
    return data


def _check_disk(data: Path) -> None:
    try:
        free = shutil.disk_usage(data).free
    except FileNotFoundError as error:
        raise StartError(f"{data} is gone, and what it kept with it: the next `quartet up` makes a new one") from error
    if free < LEAST_FREE_BYTES:
        raise StartError(
            f"only {free // 2**20} MB are free for {data}, and {LEAST_FREE_BYTES // 2**20} MB are needed: make room, "
            "or choose another folder with --data"
        )


@contextmanager
def _one_line_failures(data: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                raise StartError(f"the disk of {data} is full: make room, then start again") from error
            case errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTDIR | errno.EEXIST:
                raise StartError(f"{error.filename or data} can't be written: choose another with --data") from error
        raise


def _cancel_on_signals(console: Console) -> asyncio.Event:
    """The first SIGINT (Ctrl-C), SIGTERM or SIGHUP cancels the current task; later ones only print a line."""
    interrupted, task, loop = asyncio.Event(), asyncio.current_task(), asyncio.get_running_loop()

    def interrupt() -> None:
        if interrupted.is_set():
            console.print("stopping already, a moment")
            return
        interrupted.set()
        console.print("stopping")
        if task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt)
    return interrupted


def _show(supervisor: Supervisor, logins: Mapping[str, str], console: Console) -> None:
    stores = Table("store", "engine", "version", "where", Column("took", justify="right"))
    for name in STORES:
        server = supervisor.servers[name]
        where = urlsplit(server.url).netloc.rsplit("@", 1)[-1]
        stores.add_row(name, server.engine, server.version, where, f"{server.took_seconds:.1f} s")
    address = local_address(supervisor.settings)
    lines = Table.grid(padding=(0, 2))
    for what, value in {"API": address, "docs": f"{address}/docs", **logins}.items():
        lines.add_row(what, value)
    console.print(stores, lines, sep="\n")
    for server in supervisor.servers.values():
        if server.note:
            console.print(server.note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"Logs and data are in {supervisor.place.data}. Ctrl-C stops everything that was started here.",
        soft_wrap=True,
        highlight=False,
    )


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def _running_note(data: Path) -> Path:
    return data / "up.json"
