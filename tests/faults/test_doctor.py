"""`quartet doctor` names what would keep `quartet up` from running, and what to do."""

import io
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from old_search import elasticsearch_6
from rich.console import Console

from quartet.devstores import free_port, lock_folder
from quartet.doctor import Finding, examine, show
from quartet.kernel.settings import Settings
from quartet.stores import too_old
from quartet.stores.redis import RedisStore
from quartet.supervise import without_password, write_running_note


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that whoever runs the tests may have set."""
    for name in ("POSTGRES", "POSTGRES_REPLICA", "MONGODB", "REDIS", "SEARCH"):
        monkeypatch.delenv(f"QUARTET_{name}_URL", raising=False)


def _shown(findings: list[Finding]) -> tuple[int, str]:
    text = io.StringIO()
    return show(findings, Console(file=text, width=300)), text.getvalue()


async def test_a_machine_with_the_packages_has_all_it_needs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    status, text = _shown(await examine(Settings(_env_file=None, data_dir=data, port=free_port())))
    assert status == 0, text
    for what in ("Python", "data folder", "disk", "port", "PostgreSQL", "MongoDB", "Redis", "search"):
        assert what in text
    assert "`quartet up` can run here" in text
    assert not data.exists(), "nothing is changed"


async def test_what_is_wrong_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, nobody = taken.getsockname()[1], free_port()
        settings = Settings(
            _env_file=None,
            data_dir=tmp_path / "file" / "data",
            port=port,
            redis_url=f"redis://app:hidden@127.0.0.1:{nobody}/0",
        )
        status, text = _shown(await examine(settings))
    assert status == 1
    assert "can't be written" in text
    assert f"{port} is in use" in text
    assert f"redis://app@127.0.0.1:{nobody}/0 does not answer" in text
    assert "correct QUARTET_REDIS_URL, or leave it unset to have a local one" in text
    assert "meanwhile products come from MongoDB" in text
    assert "hidden" not in text
    assert "3 to be put right" in text


async def test_a_shop_that_runs_is_told_with_its_own_port(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, port=free_port())
    with lock_folder(tmp_path):
        _, starting = _shown(await examine(settings))
        write_running_note(settings.model_copy(update={"port": 8123}))
        status, running = _shown(await examine(settings))
    assert status == 0
    assert "8123: a `quartet up` runs on this data folder" in running
    assert "a `quartet up` runs on this data folder" in starting
    assert str(settings.port) not in starting + running


async def test_a_setting_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("QUARTET_LIMIT_BROWSING=1\nOTHER=2\n")
    monkeypatch.setenv("QUARTET_PRT", "8001")
    status, text = _shown(await examine(Settings(data_dir=tmp_path / "data", port=free_port())))
    assert status == 0, text
    assert "QUARTET_LIMIT_BROWSING is none" in text
    assert "QUARTET_PRT is none" in text
    assert "OTHER" not in text


async def test_stores_that_are_given_are_asked(tmp_path: Path, servers: dict[str, str]) -> None:
    settings = Settings(
        _env_file=None,
        data_dir=tmp_path,
        port=free_port(),
        postgres_url=servers["postgres"],
        mongodb_url=servers["mongodb"],
        redis_url=servers["redis"],
        search_url=servers["search"],
    )
    status, text = _shown(await examine(settings))
    assert status == 0, text
    for name in servers:
        assert name in text
    assert "MongoDB" not in text, "no local server is looked for where a store is given"


async def test_a_store_that_does_not_let_us_in_is_quoted(tmp_path: Path, servers: dict[str, str]) -> None:
    url = urlsplit(servers["postgres"])
    wrong = url._replace(netloc=f"{url.username}:hidden@{url.hostname}:{url.port}").geturl()
    settings = Settings(_env_file=None, data_dir=tmp_path, port=free_port(), postgres_url=wrong)
    status, text = _shown(await examine(settings))
    assert status == 1
    assert f'does not answer: password authentication failed for user "{url.username}"' in text
    assert "hidden" not in text


async def test_a_replica_that_does_not_let_us_in_is_quoted_and_keeps_nothing_from_running(
    tmp_path: Path, servers: dict[str, str]
) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, port=free_port(), postgres_replica_url=servers["postgres"])
    _, text = _shown(await examine(settings))
    assert f", {without_password(servers['postgres'])}" in text

    url = urlsplit(servers["postgres"])
    wrong = url._replace(netloc=f"{url.username}:hidden@{url.hostname}:{url.port}").geturl()
    status, text = _shown(await examine(settings.model_copy(update={"postgres_replica_url": wrong})))
    assert status == 0, text
    assert f'does not answer: password authentication failed for user "{url.username}"' in text
    assert "correct QUARTET_POSTGRES_REPLICA_URL" in text
    assert "hidden" not in text


async def test_an_engine_that_is_too_old_is_said(tmp_path: Path) -> None:
    with elasticsearch_6() as url:
        settings = Settings(_env_file=None, data_dir=tmp_path, port=free_port(), search_url=url)
        status, text = _shown(await examine(settings))
    assert status == 1
    assert f"elasticsearch 6.8.0, {url}" in text
    assert "elasticsearch 8 or newer is needed" in text


@pytest.mark.parametrize(
    ("store", "version", "is_old"),
    [
        ("postgres", "14.11 (Debian 14.11-1)", True), ("postgres", "15beta1", False), ("postgres", "19.0", False),
        ("mongodb", "6.0.14", True), ("mongodb", "7.0.0", False), ("redis", "6.2.14", True), ("redis", "7.2.4", False),
        ("search", "elasticsearch 7.17.0", True), ("search", "opensearch 1.3.0", True),
        ("search", "opensearch 2.19.0", False), ("search", "elasticsearch ", False),
    ],
)  # fmt: skip
def test_which_versions_are_too_old(store: str, version: str, is_old: bool) -> None:
    assert bool(too_old(store, version)) is is_old


def test_a_password_is_shown_nowhere_in_a_url() -> None:
    shown = without_password("postgresql://app:hidden@db:5432/shop?password=hidden&sslmode=require")
    assert shown == "postgresql://app@db:5432/shop"


@pytest.fixture
async def redis(servers: dict[str, str]) -> AsyncIterator[RedisStore]:
    store = RedisStore(servers["redis"])
    yield store
    await store.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await store.close()


async def test_a_redis_that_would_delete_carts_is_named(
    tmp_path: Path, servers: dict[str, str], redis: RedisStore
) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, port=free_port(), redis_url=servers["redis"])
    assert "maxmemory" not in _shown(await examine(settings))[1]
    await redis.call("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    status, text = _shown(await examine(settings))
    assert status == 0, "it can be run"
    assert "maxmemory-policy volatile-lru" in text
    assert "set maxmemory-policy noeviction" in text
