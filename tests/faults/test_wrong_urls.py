"""A URL that leads nowhere, or not in: a command names the setting and says why, in one line."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import pytest

from quartet.cli import main
from quartet.kernel.errors import StoreUnavailable
from quartet.stores import resp
from quartet.stores.redis import RedisStore
from quartet.stores.trouble import describe_store_error

COMMAND = ("roles", "ada@example.com")


@pytest.fixture
def named(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SplitResult:
    """Every store by its URL; PostgreSQL's in parts."""
    for name, url in servers.items():
        monkeypatch.setenv(f"QUARTET_{name.upper()}_URL", url)
    monkeypatch.chdir(tmp_path)
    return urlsplit(servers["postgres"])


def _said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["quartet", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_a_wrong_password_is_said(
    named: SplitResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = named._replace(netloc=f"{named.username}:hidden@{named.hostname}:{named.port}").geturl()
    monkeypatch.setenv("QUARTET_POSTGRES_URL", wrong)
    assert _said(monkeypatch, capsys, *COMMAND) == (
        "quartet: postgres does not answer right now: "
        f'password authentication failed for user "{named.username}" (QUARTET_POSTGRES_URL)\n'
    )


def test_what_is_logged_meanwhile_is_not_in_the_result(named: SplitResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARTET_MONGODB_URL", "mongodb://127.0.0.1:1/quartet")
    ended = subprocess.run([sys.executable, "-m", "quartet.cli", "migrate"], capture_output=True, text=True, check=True)
    assert "store is away" in ended.stderr
    assert "[warning" not in ended.stdout


def test_a_full_disk_is_said(named: SplitResult) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "quartet.cli", "doctor"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, "quartet: [Errno 28] No space left on device\n")


def test_a_database_that_there_is_not_is_said(
    named: SplitResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUARTET_POSTGRES_URL", named._replace(path="/nowhere").geturl())
    said = _said(monkeypatch, capsys, *COMMAND)
    assert said.endswith('right now: database "nowhere" does not exist (QUARTET_POSTGRES_URL)\n')


def test_a_refusal_of_the_server_is_said(
    named: SplitResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "options=-c%20default_transaction_isolation%3Dnone"
    monkeypatch.setenv("QUARTET_POSTGRES_URL", named._replace(query=query).geturl())
    said = _said(monkeypatch, capsys, *COMMAND)
    assert said.startswith("quartet: postgres: ")
    assert "default_transaction_isolation" in said
    assert said.endswith(" (QUARTET_POSTGRES_URL)\n")


@pytest.mark.usefixtures("named")
def test_what_a_driver_makes_of_its_url_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUARTET_MONGODB_URL", "mongodb://127.0.0.1/a.b")
    said = _said(monkeypatch, capsys, *COMMAND)
    assert said == "quartet: QUARTET_MONGODB_URL: database names cannot contain the character '.'\n"


@pytest.mark.parametrize(
    ("scheme", "told"),
    [("redis", "ERR DB index is out of range"), ("redis+cluster", "ERR This instance has cluster support disabled")],
)
async def test_what_a_redis_lets_nobody_in_with_is_said(scheme: str, told: str, servers: dict[str, str]) -> None:
    store = RedisStore(urlsplit(servers["redis"])._replace(scheme=scheme, path="/999").geturl())
    with pytest.raises(StoreUnavailable) as away:
        await store.ping()
    assert describe_store_error(away.value) == f"redis does not answer right now: {told} (QUARTET_REDIS_URL)"
    await store.close()


async def test_what_a_redis_refuses_is_said_and_goes_round_in_no_circle(redis: RedisStore) -> None:
    with pytest.raises(resp.Refused) as refused:
        await redis.call("NOSUCHCOMMAND")
    assert refused.value.__cause__ is not refused.value
    assert (describe_store_error(refused.value) or "").startswith("redis: ERR unknown command")
