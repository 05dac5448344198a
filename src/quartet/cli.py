"""Quartet, an e-commerce backend over four stores. `quartet up` runs the whole of it on this machine."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import structlog
import typer
from pydantic import ValidationError
from pydantic_settings.exceptions import SettingsError

from quartet.kernel.errors import Problem, StoreUnavailable
from quartet.kernel.settings import SECRET_LENGTH, Settings, complaints
from quartet.stores import open_stores
from quartet.stores.mail import mailer
from quartet.stores.migrate import lacking
from quartet.stores.trouble import describe_store_error
from quartet.web import logs
from quartet.web.dependencies import Shop

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

T = TypeVar("T")
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


# Keep-alive timeout of the API: longer than that of a load balancer in front of it (deploy/nginx.conf), so that no
# connection is closed just as a request arrives.
IDLE_SECONDS = 30
# The time that requests in flight have to finish at shutdown.
LEAVING_SECONDS = 10

DataFolder = Annotated[Path | None, typer.Option("--data", help="Folder where `quartet up` keeps local servers' data.")]
StoreUrl = Annotated[str | None, typer.Option(help="URL of your own server; without it a local one is started.")]


def main() -> None:
    """Runs the command line. An expected failure gives one clear line and exit code 1 instead of a traceback."""
    if not structlog.is_configured():  # standard output is for a command's result
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValidationError, SettingsError) as error:
        sys.stderr.writelines(f"{line}\n" for line in complaints(error))
        sys.exit(1)
    except Exception as error:
        said = describe_store_error(error)
        is_of_the_system = isinstance(error, OSError) and error.errno is not None  # such as a full disk
        if said is None and not is_of_the_system and not isinstance(error, Problem | ValueError):
            raise
        sys.stderr.write(f"quartet: {said or error}\n")
        try:
            sys.stdout.flush()
        except OSError:  # else Python tries again at its end, and says so
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def settings_of(data: Path | None, **overrides: object) -> Settings:
    """The settings, overridden by the command line; URLs that are not set come from a running `quartet up` on the same
    data folder."""
    from quartet.supervise import settings_of_running

    settings = _given(data_dir=data, **overrides)
    return settings.model_copy(update=settings_of_running(settings))


def _given(**options: object) -> Settings:
    """The settings, overridden by the given options that are not None."""
    given = {name: value for name, value in options.items() if value is not None}
    return Settings(**given)  # type: ignore[arg-type]


@asynccontextmanager
async def open_shop(settings: Settings) -> AsyncIterator[Shop]:
    """Opens the shop, as every process does."""
    async with open_stores(settings) as stores:
        gc.collect()
        gc.freeze()  # everything loaded so far stays: exclude it from later collections
        yield Shop(settings, stores, mail=mailer(settings.mail_url, settings.mail_from))


@asynccontextmanager
async def open_migrated(settings: Settings) -> AsyncIterator[Shop]:
    """The same for commands that need the schema: raises ValueError if migrations are missing. Raises
    StoreUnavailable."""
    async with open_shop(settings) as shop:
        if missing := await lacking(shop.stores.pg):
            raise ValueError(missing)
        yield shop


def in_shop(
    data: Path | None,
    work: Callable[[Shop], Awaitable[T]],
    opened: Callable[[Settings], AbstractAsyncContextManager[Shop]] = open_migrated,
) -> T:
    """Runs a command's work in an open shop; returns its result."""

    async def done() -> T:
        async with opened(settings_of(data)) as shop:
            return await work(shop)

    return asyncio.run(done())


async def check_schema(settings: Settings) -> None:
    """Raises ValueError if migrations are missing. While PostgreSQL is down this can't be told, and API and worker
    start all the same."""
    with suppress(StoreUnavailable):
        async with open_migrated(settings):
            pass


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="Port the API listens on; 0 picks a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="Address the API listens on.")] = None,
    data: DataFolder = None,
    empty: Annotated[bool, typer.Option("--empty", help="Load no demo data.")] = False,
    postgres_url: StoreUrl = None,
    mongodb_url: StoreUrl = None,
    redis_url: StoreUrl = None,
    search_url: StoreUrl = None,
) -> None:
    """Runs the whole shop on this machine: a local server for every store without a URL, API and sync worker."""
    from rich.console import Console

    from quartet import supervise
    from quartet.payments import check_providers

    settings = _given(
        port=port,
        host=host,
        data_dir=data,
        postgres_url=postgres_url,
        mongodb_url=mongodb_url,
        redis_url=redis_url,
        search_url=search_url,
    )
    check_providers(settings)
    sys.exit(asyncio.run(supervise.up(settings, partial(bring_up, empty=empty), Console())))


DEMO_MONTH = "2010-12"


async def bring_up(settings: Settings, console: "Console", *, empty: bool) -> Mapping[str, str]:
    """What `up` does once the stores run: schemas and, at the first start, demo data. Returns the demo logins."""
    from quartet import discovery, sync

    async with open_shop(settings) as shop:
        await prepare(shop)
        logins, is_new = ({}, False) if empty else await _load_demo(shop, console)
        with console.status("bringing search up to date"):
            # A search engine in memory has lost its index with its last run.
            await sync.catch_up(shop)
        if is_new:  # later the worker counts what changes: to count years of orders takes minutes
            await discovery.count_all(shop)
    return logins


async def _load_demo(shop: Shop, console: "Console") -> tuple[Mapping[str, str], bool]:
    """The demo logins, and whether the demo's orders were imported just now."""
    from quartet import demo, retail

    with retail.watching(console) as watch:
        seeded = await demo.seed(shop, watch)
        async with shop.stores.pg.read() as read:
            imported = await retail.has_month(read, DEMO_MONTH)
        if not imported:
            await retail.import_retail(shop, month=DEMO_MONTH, watch=watch)
    return seeded.logins, not imported


@app.command()
def doctor(
    data: DataFolder = None,
    port: Annotated[int | None, typer.Option(help="Port the API would listen on.")] = None,
) -> None:
    """Checks this machine and the configured stores, and says how to fix what is missing or wrong."""
    from rich.console import Console

    from quartet.doctor import examine, show

    sys.exit(show(asyncio.run(examine(_given(port=port, data_dir=data))), Console()))


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="Port the API listens on.")] = None,
    host: Annotated[str | None, typer.Option(help="Address the API listens on.")] = None,
    rooms: Annotated[str, typer.Option(help="Only these rooms of the API, such as `search,catalog`.")] = "",
    data: DataFolder = None,
) -> None:
    """Runs the API, on stores that are already running."""
    import uvicorn

    from quartet.gateway import ROOMS, create_app
    from quartet.gateway.server import Server
    from quartet.payments import check_providers
    from quartet.supervise import local_address

    settings = settings_of(data, port=port, host=host)
    if not settings.secret.get_secret_value():
        raise ValueError(f"QUARTET_SECRET is not set: at least {SECRET_LENGTH} characters (`quartet up` draws one)")
    check_providers(settings)
    _check_port(settings.port, settings.host)
    logs.configure(settings.log_level, as_json=settings.log_json)
    asyncio.run(check_schema(settings))
    names = [name.strip() for name in rooms.split(",") if name.strip()] or ROOMS
    api = create_app(lambda: open_shop(settings), names)
    config = uvicorn.Config(
        api,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=LEAVING_SECONDS,
    )
    listener = config.bind_socket()
    address = local_address(settings.model_copy(update={"port": listener.getsockname()[1]}))
    tell = partial(structlog.get_logger("quartet.gateway").info, "serving", address=address, rooms=list(names))
    Server(config, api.state.at_once, tell, is_secure=settings.is_secure).run([listener])


def _check_port(port: int, host: str, option: str = "--") -> None:
    from quartet import supervise

    if closed := supervise.port_trouble(port, host, option):
        raise ValueError(": ".join(closed))


@app.command()
def tour(
    data: DataFolder = None,
    url: Annotated[str | None, typer.Option(help="The running shop; else the one of the data folder.")] = None,
) -> None:
    """Walks through checkout, search and administration in the running shop; fails if a step goes wrong."""
    from rich.console import Console

    from quartet.demo import kept_logins, walk_tour

    settings = settings_of(data)
    logins = kept_logins(settings.data_dir)
    if not logins:
        raise ValueError(f"no demo logins are kept in {settings.data_dir}: `quartet up` without --empty makes them")
    if not asyncio.run(walk_tour(url or settings.base_url, logins, Console())):
        raise typer.Exit(1)


@app.command()
def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair copies, search and cache where they differ.")
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Read every product, not only those whose fingerprints differ.")
    ] = False,
    data: DataFolder = None,
) -> None:
    """Compares the stores with one another and with their own rules; reports every violation, fails if one is left."""
    asyncio.run(_check(settings_of(data), repair=repair, whole=whole))


async def _check(settings: Settings, *, repair: bool = False, whole: bool = True) -> None:
    from rich.console import Console

    from quartet import audit

    async with open_migrated(settings) as shop:
        report = await audit.check(shop, repair=repair, quick=not whole)
    audit.show(report, Console())
    if report.violations:
        raise typer.Exit(1)


@app.command()
def reconcile(
    day: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="One day (UTC).")] = None,
    since: Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="The first day.")] = None,
    until: Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="The last day.")] = None,
    provider: Annotated[str | None, typer.Option(help="Only this provider; else all that are on.")] = None,
    data: DataFolder = None,
) -> None:
    """Compares the payment providers' books with ours, day by day; reports every difference, fails if there is one.
    Without a day: yesterday, and once more the days 3, 7, 14, 30, 60 and 120 back, since much turns out later."""
    if day is not None and (since is not None or until is not None):
        raise ValueError("--day and --from, --to exclude one another")
    first, last = day or since or until, day or until or since
    days = None
    if first is not None and last is not None:
        if last < first:
            raise ValueError("--to lies before --from")
        days = [first.date() + timedelta(days=n) for n in range((last - first).days + 1)]
    in_shop(data, lambda shop: _reconcile(shop, days, provider))


async def _reconcile(shop: Shop, days: list[date] | None, only: str | None) -> None:
    from quartet import payments

    found = 0
    async with payments.opened_providers(shop.settings, shop.stores.pg) as providers:
        if only is not None and only not in providers:
            raise ValueError(f"the provider {only} is not on; on: {', '.join(providers)}")
        today = datetime.now(UTC).date()
        for name in [only] if only is not None else providers:
            for day in days or await payments.days_due(shop.stores.pg, name, today):
                before, compared = found, payments.Compared()
                async for one in payments.reconcile(shop.stores.pg, name, providers[name], day, compared):
                    found += 1
                    typer.echo(
                        f"{day} {name} {one.kind} {one.reference or '-'} ({one.provider_ref or '-'}): {one.finding}"
                    )
                told = f"{found - before} differences" if found > before else "no difference"
                typer.echo(f"{day} {name}: {compared.ours} of ours, {compared.theirs} of theirs, {told}")
    if found:
        raise typer.Exit(1)


@app.command("import")
def import_(
    file: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="The file, CSV or .xz; by default the one shipped."),
    ] = None,
    month: Annotated[str | None, typer.Option(help="Only this month, such as 2010-12.")] = None,
    all_months: Annotated[bool, typer.Option("--all", help="The whole file (the default).")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Then compare the books with the file, to the penny.")
    ] = False,
    data: DataFolder = None,
) -> None:
    """Imports a real retailer's year as the shop's history: products, stock, customers, orders, refunds, credits."""
    if month and all_months:
        raise ValueError("--month and --all exclude one another")
    from rich.console import Console

    from quartet import retail

    async def work(shop: Shop) -> bool:
        await prepare(shop)
        return await retail.run_import(shop, Console(), file or retail.SHIPPED, month, verified=verify)

    if not in_shop(data, work, open_shop):
        raise typer.Exit(1)


@app.command()
def replay(
    baskets: Annotated[int, typer.Option(min=1, help="How many baskets to buy.")] = 100,
    buyers: Annotated[int, typer.Option(min=1, max=1000, help="How many shoppers buy at once.")] = 8,
    url: Annotated[str | None, typer.Option(help="The running shop; else the one of the data folder.")] = None,
    month: Annotated[str, typer.Option(help="The month of the baskets; it has to be imported already.")] = DEMO_MONTH,
    seed: Annotated[int, typer.Option(help="Random seed: the same seed draws the same baskets.")] = 1,
    data: DataFolder = None,
) -> None:
    """Buys the retailer's real baskets over HTTP at today's prices, then runs `check`."""
    from rich.console import Console

    from quartet import retail

    settings = settings_of(data)
    wanted = retail.baskets(retail.SHIPPED, month, baskets, seed)
    if not wanted:
        raise ValueError(f"the file has no baskets in {month}; its months are 2010-12 to 2011-12")
    typer.echo(f"{baskets} baskets of {month}, {buyers} buyers, seed {seed}")
    went_well = asyncio.run(retail.run_replay(Console(), url or settings.base_url, wanted, buyers, settings.currency))
    if settings.postgres_url:
        asyncio.run(_check(settings))
    else:
        typer.echo("not checked: no stores' URLs are set and no `quartet up` runs on this data folder")
    if not went_well:
        raise typer.Exit(1)


@app.command()
def worker(
    data: DataFolder = None,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Port for Prometheus' metrics; 0 for none.")] = 0,
    metrics_host: Annotated[str, typer.Option(help="Address to listen on for metrics.")] = "127.0.0.1",
) -> None:
    """Runs the sync worker, on stores that are already running; any number of workers share the work."""
    from prometheus_client import start_http_server
    from uvicorn.loops.auto import auto_loop_factory

    from quartet.payments import check_providers

    settings = settings_of(data)
    check_providers(settings)
    if metrics_port:
        _check_port(metrics_port, metrics_host, "--metrics-")
        start_http_server(metrics_port, metrics_host)
    logs.configure(settings.log_level, as_json=settings.log_json)
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:  # the API's loop, cheaper than asyncio's own
        runner.run(_worker(settings))


async def _worker(settings: Settings) -> None:
    from quartet import sync

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await check_schema(settings)
    async with open_shop(settings) as shop:
        await sync.run_worker(shop, stop)


@app.command()
def reindex(
    back: Annotated[bool, typer.Option("--back", help="Go back to the previous index, brought up to date.")] = False,
    data: DataFolder = None,
) -> None:
    """Rebuilds the search index beside the live one, then swaps them; searches go on meanwhile. A rebuild that was
    interrupted resumes where it stopped."""
    in_shop(data, lambda shop: _reindex(shop, back=back))


async def _reindex(shop: Shop, *, back: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from quartet import sync

    columns = (TextColumn("products into search"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console()) as progress:
        line = progress.add_task("", total=None)
        watching = asyncio.create_task(_watch_rebuild(shop, progress, line))
        try:
            rebuild = await sync.reindex(shop, reason="quartet reindex", back=back)
        finally:
            watching.cancel()
        if not rebuild.error:
            progress.update(line, completed=rebuild.total, total=rebuild.total, description="")
    if rebuild.error:
        raise ValueError(f"the index is not live: {rebuild.error}")
    # By its kind: if one of the other kind was open, that is the one that was done.
    built = f"{rebuild.done} products are in the new search index"
    typer.echo("the former search index is live again" if rebuild.kind == "back" else built)


async def _watch_rebuild(shop: Shop, progress: "Progress", line: "TaskID") -> None:
    """Shows the progress from PostgreSQL, since the worker may be the one that runs the rebuild."""
    from quartet import sync

    while True:
        rebuild = await sync.last_rebuild(shop)
        if rebuild is not None and rebuild.state == "building":
            left = "" if rebuild.seconds_left is None else f", {timedelta(seconds=round(rebuild.seconds_left))} left"
            text = f"{rebuild.rate:.0f} a second{left}"
            progress.update(line, completed=rebuild.done, total=rebuild.total, description=text)
        await asyncio.sleep(0.5)


dead_letters = typer.Typer(no_args_is_help=True, help="Dead letters: events and products that could not be processed.")
app.add_typer(dead_letters, name="dead-letters")


@dead_letters.command("list")
def list_dead_letters(
    data: DataFolder = None, limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20
) -> None:
    """Shows dead letters, each with its error."""
    from quartet import sync

    letters = in_shop(data, lambda shop: sync.dead_letters(shop, limit))
    if not letters:
        typer.echo("there are none")
    for letter in letters:
        what = letter.payload.get("topic") or letter.payload.get("kind") or ""
        at = letter.created_at.isoformat(timespec="seconds")
        typer.echo(f"{letter.id}  {at}  {letter.pipeline}  {letter.key}  {what}  {letter.reason}")


@dead_letters.command("replay")
def replay_dead_letters(data: DataFolder = None) -> None:
    """Retries dead letters, the oldest 500 of each kind."""
    from quartet import sync

    taken_up = in_shop(data, lambda shop: sync.replay_dead_letters(shop, actor="command line"))
    typer.echo(f"{taken_up} taken up again")


@dead_letters.command("drop")
def drop_dead_letter(id_: Annotated[int, typer.Argument(metavar="ID")], data: DataFolder = None) -> None:
    """Deletes a dead letter for good."""
    from quartet import sync

    letter = in_shop(data, lambda shop: sync.drop_dead_letter(shop, id_, actor="command line"))
    typer.echo(f"dropped {letter.pipeline} {letter.key}")


boards = typer.Typer(no_args_is_help=True, help="The leaderboard.")
app.add_typer(boards, name="leaderboard")


@boards.command("rebuild")
def rebuild_boards(data: DataFolder = None) -> None:
    """Rebuilds today's and this week's board from orders and from staff's points; both stay in use meanwhile."""
    from quartet import leaderboard

    made = in_shop(data, lambda shop: leaderboard.rebuild(shop, actor="command line"))
    typer.echo(", ".join(f"the {period} board is made of {sources} sources" for period, sources in made.items()))


class Role(StrEnum):
    """The roles of an account; `none` removes all."""

    STAFF = "staff"
    ADMIN = "admin"
    NONE = "none"


@app.command()
def roles(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="The account's e-mail address.")],
    given: Annotated[list[Role] | None, typer.Argument(metavar="[staff] [admin] | none")] = None,
    data: DataFolder = None,
) -> None:
    """Replaces an account's roles, or shows them. Creates the first admin of a shop."""
    if given and Role.NONE in given and len(given) > 1:
        raise ValueError("`none` goes with no other role")
    from quartet import access

    async def now(shop: Shop) -> str:
        user = await access.user_by_email(shop, email)
        if given:
            wanted = frozenset(role.value for role in given) - {Role.NONE}
            user = await access.set_roles(shop, user.id, wanted, actor="command line")
        return f"{user.email}: {', '.join(sorted(user.roles)) or 'no role'}"

    typer.echo(in_shop(data, now))


BackupFolder = Annotated[Path, typer.Argument(metavar="FOLDER")]


@app.command()
def backup(folder: BackupFolder, data: DataFolder = None) -> None:
    """Backs up users, stock, orders, payments and the catalog into a new folder; the shop stays open meanwhile."""
    asyncio.run(_backup(settings_of(data), folder))


async def _backup(settings: Settings, folder: Path) -> None:
    from quartet import backup

    async with open_shop(settings) as shop:
        made = await backup.back_up(shop, folder, await _postgres_tool(shop, "pg_dump"))
    _tell(f"everything committed by {made.point.isoformat(timespec='milliseconds')} is in {folder}", made.documents)


@app.command()
def restore(
    folder: BackupFolder,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite a shop that is not empty: its data is lost.")
    ] = False,
    data: DataFolder = None,
) -> None:
    """Restores what `quartet backup` wrote, into an empty shop; then a worker rebuilds the search index."""
    asyncio.run(_restore(settings_of(data), folder, replace=replace))


async def _restore(settings: Settings, folder: Path, *, replace: bool) -> None:
    from quartet import backup

    async with open_shop(settings) as shop:
        tool = await _postgres_tool(shop, "pg_restore")
        found = await backup.restore(shop, folder, tool, prepare, replace=replace)
    _tell(f"the shop is as of {found.point.isoformat(timespec='milliseconds')}", found.documents)
    typer.echo("search follows as soon as a worker works; then `quartet check`, and `quartet reconcile` since that day")


async def _postgres_tool(shop: Shop, name: str) -> Path:
    from quartet.devstores import postgres

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; else the tool would go on, holding locks
    major = int((await shop.stores.pg.ping()).partition(".")[0])
    return await asyncio.to_thread(postgres.tool, name, major)


def _tell(what: str, documents: Mapping[str, int]) -> None:
    typer.echo(f"{what}; {', '.join(f'{number} {name}' for name, number in documents.items())}")


@app.command()
def migrate(data: DataFolder = None) -> None:
    """Brings the stores' schemas up to date: tables, collections, indexes. Safe to repeat."""
    away: list[StoreUnavailable] = []
    applied = in_shop(data, partial(prepare, away=away), open_shop)
    for name in applied or ():
        typer.echo(f"applied {name}")
    for store in away:
        typer.echo(f"{describe_store_error(store)}: a worker brings it up to date once it does", err=True)
    if applied is None:
        typer.echo("the stores are of a newer version, and are left as they are")
    elif not away:
        typer.echo("the stores are up to date")


async def prepare(shop: Shop, *, away: list[StoreUnavailable] | None = None) -> list[str] | None:
    """Tables, collections and the search index; returns the migrations applied. Idempotent. None if the stores are of a
    newer version: they are left as they are, except that a missing index (an engine in memory) is created. `away`:
    takes the outages of MongoDB and search, which otherwise are raised; a worker does later what they left undone."""
    from quartet import catalog, search
    from quartet.stores.migrate import migrate as migrate_postgres

    applied = await migrate_postgres(shop.stores.pg)
    if applied is not None:
        await _unless_away(catalog.prepare(shop.stores.mongo), away)
    await _unless_away(search.prepare(shop.stores.search, shop.settings), away)
    return applied


async def _unless_away(making: Awaitable[None], away: list[StoreUnavailable] | None) -> None:
    try:
        await making
    except StoreUnavailable as outage:  # tolerated with `away`: what works without this store must be able to start
        if away is None or outage.is_unauthorized:
            raise
        away.append(outage)


if __name__ == "__main__":
    main()
