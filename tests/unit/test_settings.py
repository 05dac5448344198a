"""A setting that cannot be is named, with what it is for, and no value is told."""

import re
import socket
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings.exceptions import SettingsError

from quartet.cli import main
from quartet.devstores import free_port, lock_folder
from quartet.kernel.settings import Settings, complaints
from quartet.payments import check_providers
from quartet.stores.search import nodes_of
from quartet.supervise import local_address, port_trouble, settings_of_running, write_running_note

EXAMPLE = Path(__file__).parents[2] / ".env.example"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither what whoever runs the tests has set nor their `.env`."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"QUARTET_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


COMPLAINTS: tuple[type[ValidationError | SettingsError], ...] = (ValidationError, SettingsError)


def _said(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> list[str]:
    monkeypatch.setenv(f"QUARTET_{name}", value)
    with pytest.raises(COMPLAINTS) as refused:
        Settings()
    return complaints(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "eighty", "valid integer"),
        ("CURRENCY", "pounds", r"pattern .*ISO 4217"),
        ("PAYMENT_PROVIDERS", "stripe", r"not JSON .*JSON list"),
        ("SEARCH_WEIGHTS", '{"colour": 1}', "colour: .*'name'"),
        ("SECRET", "sesame", r"too short, at least 32 .*signs access tokens"),
        ("SECRETS_RETIRED", '["sesame"]', r"0: too short, at least 32 .*Earlier secrets"),
        ("SECRETS_RETIRED", '[""]', "0: too short"),
        ("SECRETS_RETIRED", f'["{" " * 40}"]', "0: too short"),
        ("STRIPE_WEBHOOK_SECRETS", '[""]', r"0: too short, at least 32 .*Stripe's webhooks"),
        ("STRIPE_WEBHOOK_SECRETS", '["whsec_"]', "0: too short"),
        ("POSTGRES_URL", "sesame", "postgresql://"),
        ("MONGODB_URL", "sesame:27017", "mongodb://"),
        ("REDIS_URL", "sesame:6379", "redis://"),
        ("SEARCH_URL", "sesame:9200", "http://"),
        ("POSTGRES_URL", "postgresql://shop:1#sesame@db/shop", "percent-encoded"),
        ("POSTGRES_URL", "postgresql://shop:1/sesame@db/shop", "percent-encoded"),
        ("POSTGRES_URL", "postgresql://shop:[sesame@db/shop", "percent-encoded"),
        ("POSTGRES_REPLICA_URL", "postgresql://,/sesame", "no host"),
        ("MONGODB_URL", "mongodb://shop:open@sesame@db/shop", "percent-encoded"),
        ("MONGODB_URL", "mongodb://", "no host"),
        ("REDIS_URL", "redis://sesame:abc/0", "no host"),
        ("REDIS_URL", "redis://sesame:65536", "no host"),
        ("REDIS_URL", "redis+cluster://a:6379,:6379", "no host"),
        ("SEARCH_URL", "https://", "no host"),
        ("BASE_URL", "shop.example", "https?"),
        ("BASE_URL", "https://", "with a host"),
        ("BASE_URL", "HTTPS://sesame", "https?"),
        ("BASE_URL", " ", "at least 1"),
        ("PAYMENT_RETURN_URL", "/sesame", "https?"),
        ("PAYMENT_RETURN_URL", "https://shop.example/thanks?order=sesame", r"without \?"),
        ("STRIPE_API_URL", "sesame", "https?"),
        ("PAYPAL_API_URL", "https://[sesame", "https?"),
        ("MAIL_URL", "http://sesame", "smtp://"),
        ("MAIL_URL", "smtp://", "no host"),
        ("MAIL_FROM", "Sesame", "e-mail address"),
    ],
)
def test_what_cannot_be_is_named_with_what_it_is_for(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    [line] = _said(monkeypatch, name, value)
    assert line.startswith(f"QUARTET_{name}: ")
    assert re.search(words, line), line
    assert "sesame" not in line


@pytest.mark.parametrize("name", ["STRIPE_SECRET_KEY", "PAYPAL_CLIENT_ID", "PAYPAL_CLIENT_SECRET", "PAYPAL_WEBHOOK_ID"])
def test_what_a_payment_provider_needs_is_missing_where_it_is_blank(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("QUARTET_PAYMENT_PROVIDERS", '["stripe", "paypal"]')
    monkeypatch.setenv(f"QUARTET_{name}", " ")
    with pytest.raises(ValueError, match=f"QUARTET_{name} is not set"):
        check_providers(Settings())


NUMBERS = [name for name, field in Settings.model_fields.items() if type(field.get_default()) in (int, float)]


@pytest.mark.parametrize("name", sorted({*NUMBERS} - {"sandbox_seed"}))
def test_no_number_is_larger_than_can_be_reckoned_with(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    [line] = _said(monkeypatch, name.upper(), "999999999999999")
    assert line.startswith(f"QUARTET_{name.upper()}: Input should be less than or equal to ")


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize("name", [name for name in NUMBERS if isinstance(Settings.model_fields[name].default, float)])
def test_a_time_or_a_share_is_finite(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    [line] = _said(monkeypatch, name.upper(), value)
    assert line.startswith(f"QUARTET_{name.upper()}: Input should be ")


@pytest.mark.parametrize("weight", ["Infinity", "NaN", "1e30"])
def test_a_word_weighs_what_an_engine_can_reckon_with(monkeypatch: pytest.MonkeyPatch, weight: str) -> None:
    [line] = _said(monkeypatch, "SEARCH_WEIGHTS", f'{{"name": {weight}}}')
    assert line.startswith("QUARTET_SEARCH_WEIGHTS: name: Input should be ")


@pytest.mark.parametrize(("payment", "request_"), [("15", ""), ("10", "10"), ("", "9.5")])
def test_a_provider_has_less_time_than_the_request_that_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, payment: str, request_: str
) -> None:
    monkeypatch.setenv("QUARTET_PAYMENT_TIMEOUT", payment)
    [line] = _said(monkeypatch, "REQUEST_TIMEOUT", request_)
    assert line.startswith("QUARTET_REQUEST_TIMEOUT: has to be more than QUARTET_PAYMENT_TIMEOUT (")


def test_a_blank_secret_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARTET_SECRET", " " * 40)
    assert not Settings().secret


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("POSTGRES", "postgresql://shop:open@sesame@a:5432,b:5432/shop?target_session_attrs=primary"),
        ("POSTGRES", "postgres:///shop?host=/run/postgresql"),
        ("POSTGRES", "postgresql:///shop"),
        ("MONGODB", "mongodb://shop:p%40ss@a,b:27017/shop?replicaSet=rs0"),
        ("MONGODB", "mongodb+srv://cluster.example/shop"),
        ("SEARCH", "https://[::1]:9200"),
    ],
)
def test_a_url_that_its_driver_can_read_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setenv(f"QUARTET_{name}_URL", url)
    assert getattr(Settings(), f"{name.lower()}_url") == url


@pytest.mark.parametrize("sender", ["shop@localhost", "The Shop <orders@shop.example>"])
def test_a_sender_may_have_a_name(monkeypatch: pytest.MonkeyPatch, sender: str) -> None:
    monkeypatch.setenv("QUARTET_MAIL_FROM", sender)
    assert Settings().mail_from == sender


def test_a_node_of_search_has_its_port() -> None:
    assert nodes_of("http://u:p@a,b:9201") == ["http://u:p@a:9200", "http://u:p@b:9201"]
    assert nodes_of("https://a/behind,[::1]") == ["https://a:443/behind", "https://[::1]:443"]


@pytest.mark.parametrize(
    "url",
    ["redis://h", "rediss://h:1/0", "redis+cluster://a:1,b:2", "rediss+cluster://u:p@a:1", "unix:///run/redis@main"],
)
def test_every_way_to_reach_redis_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("QUARTET_REDIS_URL", url)
    assert Settings().redis_url == url


def test_the_example_with_every_line_taken_in_changes_nothing(tmp_path: Path) -> None:
    lines = EXAMPLE.read_text("utf-8")
    (tmp_path / ".env").write_text(re.sub(r"^# (?=QUARTET_)", "", lines, flags=re.MULTILINE), "utf-8")
    assert Settings() == Settings(_env_file=None)


def test_a_command_says_it_in_lines_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUARTET_PAYMENT_PROVIDERS", "stripe")
    monkeypatch.setattr(sys, "argv", ["quartet", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("QUARTET_PAYMENT_PROVIDERS: not JSON (")


def test_a_tour_without_the_demo_says_what_makes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quartet", "tour"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "`quartet up` without --empty" in capsys.readouterr().err


def test_serve_says_who_has_its_port(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("QUARTET_SECRET", "s" * 32)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["quartet", "serve", "--port", str(port)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 1
    assert f"port {port} is in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "words"), [("127.0.0.1", "port {port} is in use"), ("192.0.2.1", "this machine has no address 192.0.2.1")]
)
def test_a_worker_says_why_it_can_tell_no_metrics(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str, words: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["quartet", "worker", "--metrics-port", str(port), "--metrics-host", host])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert words.format(port=port) in said
    assert "choose another with --metrics-" in said


def test_a_port_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["quartet", "worker", "--metrics-port", "99999"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--metrics-port" in capsys.readouterr().err


def test_a_host_that_is_none_of_ours_is_not_called_a_taken_port() -> None:
    trouble = port_trouble(free_port(), "192.0.2.1")  # RFC 5737: nobody's
    assert trouble is not None
    assert trouble[0].startswith("this machine has no address 192.0.2.1")
    assert "--host" in trouble[1]


def test_any_free_port_is_not_the_one_of_a_running_up(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        write_running_note(Settings(data_dir=tmp_path, port=8123, redis_url="redis://there"))
        for given, found in (({}, 8123), ({"port": 0}, None), ({"port": 81}, None)):
            urls = settings_of_running(Settings.model_validate({"data_dir": tmp_path} | given))
            assert (urls.get("port"), urls["redis_url"]) == (found, "redis://there")


@pytest.mark.parametrize(
    ("host", "where"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("127.0.0.2", "127.0.0.2"), ("box", "box")],
)
def test_the_shop_is_reached_where_it_listens(host: str, where: str) -> None:
    assert local_address(Settings(_env_file=None, host=host, port=81)) == f"http://{where}:81"


def test_a_port_is_looked_at_by_ipv6_too() -> None:
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with taken:
        port = taken.getsockname()[1]
        trouble = port_trouble(port, "::1")
        assert trouble is not None
        assert trouble[0].startswith(f"port {port} is in use")
    assert port_trouble(port, "::1") is None
