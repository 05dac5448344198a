"""The `quartet` command."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import typer

from quartet.kernel.settings import Settings
from quartet.stores import open_stores
from quartet.stores.mail import mailer
from quartet.web.dependencies import Shop

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def main() -> None:
    """Entry point: a failure is one clear line and exit code 1, not a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


def settings_of(data: Path | None = None, **overrides: object) -> Settings:
    """The settings, with what the command line says on top; local stores' URLs come from the data folder of a running
    `quartet up` where none is set."""
    from quartet.supervise import running_urls

    given = {name: value for name, value in overrides.items() if value is not None}
    if data is not None:
        given["data_dir"] = data
    settings = Settings(**given)  # type: ignore[arg-type]
    return settings.model_copy(update=running_urls(settings))


@asynccontextmanager
async def open_shop(settings: Settings) -> AsyncIterator[Shop]:
    """The shop as every process opens it."""
    async with open_stores(settings) as stores:
        yield Shop(settings, stores, mail=mailer(settings.mail_url, settings.mail_from))


if __name__ == "__main__":
    main()
