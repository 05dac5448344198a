"""Every setting, with a description. Read from the environment (`QUARTET_…`) and `.env`, never at import."""

import re
from contextlib import suppress
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]

YEAR_SECONDS = 365 * 86_400
# Upper bounds that every store, and all date arithmetic, can represent.
Count = Annotated[int, Field(le=10**9)]
Moment = Annotated[float, Field(le=86_400)]
Lasting = Annotated[int, Field(le=YEAR_SECONDS)]
Days = Annotated[int, Field(le=3650)]

Language = Literal["english", "german"]

SECRET_LENGTH = 32
"""The least number of characters of a secret."""


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret) < SECRET_LENGTH:
        raise ValueError(f"too short, at least {SECRET_LENGTH} characters are needed")
    return secret


def _readable(url: str) -> str:
    with suppress(ValueError):  # its message may contain a part of the URL
        if _is_readable(url):
            return url
    raise ValueError("no host can be read from it; what a password has of : / ? # @ has to be percent-encoded")


def _is_readable(url: str) -> bool:
    """Whether every driver parses the URL in the same way. Raises ValueError if a part can't be parsed."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return True
    login, _, hosts = parts.netloc.rpartition("@")
    if "#" in url or "@" in parts.path:
        return False
    if parts.scheme.startswith("mongodb") and ("@" in login or login.count(":") > 1):
        return False
    if not hosts and parts.scheme.startswith("postgres"):  # connects by the default Unix socket
        return True
    named = [urlsplit(f"//{host}") for host in hosts.split(",")]
    return all(host.hostname and host.port != 0 for host in named)


def _on_the_web(url: str) -> str:
    with suppress(ValueError):
        parts = urlsplit(url)
        if not url or (re.match(r"https?://[^?\s]+\Z", url) and parts.hostname and parts.port != 0):
            return url
    raise ValueError("has to be http:// or https:// with a host, without ?")


def _an_address(sender: str) -> str:
    name, at, host = parseaddr(sender)[1].rpartition("@")
    if not (name and at and host):
        raise ValueError("has to be an e-mail address, shop@host or Shop <shop@host>")
    return sender


StoreUrl = Annotated[str, AfterValidator(_readable)]
WebUrl = Annotated[str, AfterValidator(_on_the_web)]
LongSecret = Annotated[SecretStr, AfterValidator(_long_enough)]


class Settings(BaseSettings):
    """The shop's settings; `.env.example` lists them all."""

    model_config = SettingsConfigDict(
        env_prefix="QUARTET_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        str_strip_whitespace=True,  # so that a blank value counts as not set
    )

    postgres_url: StoreUrl | None = Field(
        None, pattern="^postgres(ql)?://", description="PostgreSQL 15 to 18, postgresql://user:password@host/db."
    )
    postgres_replica_url: StoreUrl | None = Field(
        None,
        pattern="^postgres(ql)?://",
        description="Optional streaming replica for reports (/analytics); it may lag.",
    )
    mongodb_url: StoreUrl | None = Field(
        None, pattern=r"^mongodb(\+srv)?://", description="MongoDB 7 or 8 (replica set), mongodb://host/db."
    )
    redis_url: StoreUrl | None = Field(
        None,
        pattern=r"^(rediss?(\+cluster)?|unix)://",
        description="Redis 7+ or Valkey 8+, redis://host:6379/0; a cluster: redis+cluster://host:6379,host:6379.",
    )
    search_url: StoreUrl | None = Field(
        None,
        pattern="^https?://",
        description="Elasticsearch 8 or 9, OpenSearch 2 or 3, http://host:9200; a cluster: http://host:9200,host:9200.",
    )

    data_dir: Path = Field(Path(".quartet"), description="Where `quartet up` keeps local servers' data and logs.")
    dev_search: Literal["auto", "opensearch", "osmem", "elasticsearch"] = Field(
        "auto",
        description="Local search: opensearch, elasticsearch or osmem; auto: opensearch if Java 17 and Maven exist.",
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    base_url: WebUrl = Field(
        "http://127.0.0.1:8000",
        min_length=1,
        description="The shop's public URL: used in e-mails, and to check the pages' cookies and origins.",
    )
    trust_proxy: bool = Field(
        False,
        description="Take the client's IP address from X-Forwarded-For (only behind your own load balancer).",
    )

    currency: Currency = Field("GBP", description="ISO 4217 code of the shop's prices.")
    secret: SecretStr = Field(
        SecretStr(""),
        description="At least 32 characters; signs access tokens and cursors. `quartet up` generates one.",
    )
    secrets_retired: tuple[LongSecret, ...] = Field(
        (),
        description="Earlier secrets (JSON list), still valid; docs/access.md says how long to keep each.",
    )
    access_ttl: Lasting = Field(900, ge=1, description="Seconds an access token lives.")
    refresh_ttl: Lasting = Field(2_592_000, ge=60, description="Seconds a refresh token lives (30 days).")
    password_hashers: Count = Field(1, ge=1, description="Processes that hash passwords (argon2id, 37 ms CPU each).")
    password_queue: Count = Field(64, ge=1, description="Sign-ins that may wait for a hasher; beyond that 429.")
    order_hold_seconds: Lasting = Field(900, ge=1, description="Seconds an unpaid order keeps its stock reserved.")
    product_cache_seconds: Lasting = Field(900, ge=1, description="Seconds a product stays cached at most.")
    cart_days: Days = Field(30, ge=1, description="Days an unused cart is kept.")
    search_alias: str = Field("products", pattern=r"^[a-z][a-z0-9_-]*$", description="Alias of the search index.")
    comparison_share: float = Field(
        0.05, gt=0, le=1, description="Share of its time that the worker spends comparing the stores, continuously."
    )
    search_replicas: Count = Field(0, ge=0, description="Replicas of the search index (1 on a cluster).")
    suggest_least_searches: Count = Field(
        5, ge=2, description="Successful searches that a query needs before it is suggested to others."
    )
    search_log_days: Days = Field(90, ge=1, description="Days that the search log is kept.")
    sync_batch: Count = Field(
        500, ge=1, description="Products or events that the worker processes in one batch at most."
    )
    sync_gather_seconds: Moment = Field(
        0.02, ge=0, description="Seconds the worker collects catalog changes for one batch."
    )
    sync_waiting: Count = Field(
        20_000,
        ge=1,
        description="Changes that may wait in a worker; beyond that it stops reading until they are processed. It also "
        "looks through at most as many events to fill a batch of products.",
    )
    canary_seconds: Moment = Field(
        1.0, ge=0, description="Seconds between two measurements of freshness, by a hidden canary product; 0: never."
    )
    worker_lease_seconds: Moment = Field(
        3.0, gt=0, description="Seconds until the work of a silent worker is taken over by another."
    )

    search_language: Language = Field("english", description="Language of the products' texts: english or german.")
    search_languages: dict[Literal["name", "more", "description"], Language] = Field(
        {}, description="Which of `name`, `more`, `description` is written in another language (JSON object)."
    )
    search_weights: dict[
        Literal["name", "exact", "brand", "more", "description"], Annotated[float, Field(ge=0, le=1000)]
    ] = Field(
        {"name": 3.0, "exact": 1.0, "brand": 2.0, "more": 1.0, "description": 0.5},
        description="Weight of a match by field; `exact` is a word of the name as typed (JSON object).",
    )
    search_cache_seconds: float = Field(
        1.0, ge=0, le=1, description="Seconds the answer to a search is cached; 0: not at all."
    )
    search_cache_bytes: int = Field(
        33_554_432, ge=0, le=2**40, description="Bytes of cached search answers in each process."
    )
    search_share: Count = Field(4, ge=1, description="Concurrent searches of one client at the engine, per process.")
    search_seconds: Moment = Field(
        1.0, gt=0, description="Seconds the engine may take; then it gives a partial answer."
    )

    limit_browse: Count = Field(6000, ge=1, description="Reads a minute per user, guests per IP address.")
    limit_search: Count = Field(3000, ge=1, description="Searches a minute per user, guests per IP address.")
    limit_write: Count = Field(3000, ge=1, description="Writes a minute per user, guests per IP address.")
    limit_auth: Count = Field(
        1200,
        ge=1,
        description="Sign-ins and account changes a minute per user, guests per IP address.",
    )
    limit_pay: Count = Field(
        1200, ge=1, description="Orders, payments and their changes a minute per user, guests per IP address."
    )
    limit_sign_in_failures: Count = Field(
        10, ge=1, description="Wrong passwords for an account until it is locked for a while."
    )
    limit_address_failures: Count = Field(
        100, ge=1, description="Wrong passwords from an IP address until it is locked for a while."
    )

    mail_url: str = Field(
        "console:",
        pattern="^(console:|smtps?://)",
        description="`console:` prints e-mails; smtp://user:password@host:587, or smtps://, sends.",
    )
    mail_from: Annotated[str, AfterValidator(_an_address)] = Field(
        "shop@localhost", description="Sender of the shop's e-mails."
    )
    webhook_loopback: bool = Field(
        False, description="Allow webhooks to this machine, and by http (for development and tests)."
    )
    payment_providers: tuple[str, ...] = Field(("sandbox",), description="Payment providers that are on (JSON list).")
    sandbox_webhook_secret: SecretStr = Field(
        SecretStr(""), description="Signs the sandbox provider's webhooks; derived from `secret` when empty."
    )
    sandbox_slow_seconds: Moment = Field(3.0, ge=0, description="Seconds the sandbox takes for `card_slow`.")
    sandbox_async_seconds: Moment = Field(1.0, ge=0, description="Seconds `card_async` is pending at the sandbox.")
    sandbox_hold_seconds: float = Field(
        604_800.0, gt=0, le=YEAR_SECONDS, description="Seconds until an authorization at the sandbox lapses (7 days)."
    )
    sandbox_latency_seconds: Moment = Field(0.0, ge=0, description="Seconds each call to the sandbox takes.")
    sandbox_error_share: float = Field(
        0.0, ge=0, le=1, description="Share of the sandbox's calls that fail before anything happens."
    )
    sandbox_silent_before_share: float = Field(
        0.0, ge=0, le=1, description="Share of the sandbox's calls that do nothing and do not answer."
    )
    sandbox_silent_after_share: float = Field(
        0.0, ge=0, le=1, description="Share of the sandbox's calls that take effect and do not answer."
    )
    sandbox_webhook_copies: int = Field(1, ge=0, le=100, description="How often the sandbox sends each webhook.")
    sandbox_webhook_late_seconds: Moment = Field(
        0.0, ge=0, description="Up to how many seconds late each copy of a sandbox webhook is."
    )
    sandbox_seed: int = Field(1, description="Seed of the sandbox's random faults; the same seed, the same faults.")
    stripe_secret_key: SecretStr = Field(
        SecretStr(""), description="Stripe's secret or restricted key, `sk_…` or `rk_…`."
    )
    stripe_webhook_secrets: tuple[LongSecret, ...] = Field(
        (), description="Signing secrets of Stripe's webhooks, `whsec_…`; two during a rotation (JSON list)."
    )
    stripe_api_url: WebUrl = Field("", description="URL of Stripe's API, for tests; the real one when empty.")
    paypal_client_id: str = Field("", description="Client id of your PayPal app.")
    paypal_client_secret: SecretStr = Field(SecretStr(""), description="Secret of your PayPal app.")
    paypal_webhook_id: str = Field("", description="PayPal's id of the webhook to /webhooks/paypal.")
    paypal_live: bool = Field(
        False, description="Use PayPal's live environment; else its sandbox, where no money moves."
    )
    paypal_api_url: WebUrl = Field("", description="URL of PayPal's API, for tests; the real one when empty.")
    payment_capture: Literal["automatic", "manual"] = Field(
        "automatic", description="automatic: captured at once; manual: authorized until POST /payments/{id}/capture."
    )
    payment_return_url: WebUrl = Field(
        "", description="URL to which a provider's page returns the buyer; `base_url` when empty."
    )
    payment_timeout: Moment = Field(
        10.0,
        gt=0,
        description="Seconds a provider may take, less than `request_timeout`; then `pending`, and looked up later.",
    )

    request_timeout: Moment = Field(
        15.0, gt=0, description="Timeout of a request in seconds (504), reports excepted; more than `payment_timeout`."
    )
    postgres_pool: Count = Field(8, ge=1, description="PostgreSQL connections per process (more make it slower).")
    redis_doubt: Moment = Field(
        0.04,
        gt=0,
        description="Seconds without any answer of Redis until rate limits do without it; product pages and guests who "
        "browse after a quarter of that. Set it to more than four times the round trip to Redis.",
    )
    server_timing: bool = Field(
        False, description="Answers say in `Server-Timing` which stores were called, and how long each took."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged: debug, info, warning or error."
    )
    log_json: bool = Field(True, description="Log JSON lines; false: human-readable lines.")

    @field_validator("secret")
    @classmethod
    def _long_enough_if_set(cls, secret: SecretStr) -> SecretStr:
        return _long_enough(secret) if secret else secret

    @field_validator("mail_url")
    @classmethod
    def _mailed_to_a_host(cls, url: str) -> str:
        return url if url.startswith("console:") else _readable(url)

    @field_validator("request_timeout")
    @classmethod
    def _outlasts_payments(cls, seconds: float, info: ValidationInfo) -> float:
        if seconds <= info.data.get("payment_timeout", 0):
            raise ValueError("has to be more than QUARTET_PAYMENT_TIMEOUT")
        return seconds

    @property
    def is_secure(self) -> bool:
        """Whether the shop's public URL is https."""
        return self.base_url.startswith("https:")

    def all_secrets(self) -> list[str]:
        """The secret that signs, then those that only verify."""
        return [held.get_secret_value() for held in (self.secret, *self.secrets_retired)]


def complaints(error: ValidationError | SettingsError) -> list[str]:
    """Messages, one per invalid setting, without the values, which may be secret."""
    if isinstance(error, ValidationError):
        return [_complaint([str(part) for part in found["loc"]], found["msg"]) for found in error.errors()]
    unread = re.search(r'field "(\w+)"', str(error))
    return [_complaint([unread[1]], "not JSON") if unread else str(error)]


def _complaint(place: list[str], what: str) -> str:
    name, *within = place
    where = "".join(f" {part}:" for part in within)
    meant = f" ({Settings.model_fields[name].description})" if name in Settings.model_fields else ""
    return f"QUARTET_{name.upper()}:{where} {what.removeprefix('Value error, ')}{meant}"
