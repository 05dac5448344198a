"""Every setting, with a sentence. Read from the environment (`QUARTET_…`) and `.env`, never at import."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class Settings(BaseSettings):
    """The shop's settings; `.env.example` lists them all."""

    model_config = SettingsConfigDict(env_prefix="QUARTET_", env_file=".env", extra="ignore", frozen=True)

    postgres_url: str | None = Field(None, description="PostgreSQL 15 to 18, postgresql://user:password@host/db.")
    mongodb_url: str | None = Field(None, description="MongoDB 7 or 8 (replica set), mongodb://host/db.")
    redis_url: str | None = Field(None, description="Redis 7+ or Valkey 8+, redis://host:6379/0.")
    search_url: str | None = Field(None, description="Elasticsearch 8 or 9, OpenSearch 2 or 3, http://host:9200.")

    data_dir: Path = Field(Path(".quartet"), description="Where `quartet up` keeps local servers' data and logs.")
    dev_search: Literal["auto", "opensearch", "osmem", "elasticsearch"] = Field(
        "auto", description="The local search engine: OpenSearch where Java 17 and Maven are, else osmem."
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    base_url: str = Field("http://127.0.0.1:8000", description="The shop's public address, used in e-mails.")
    trust_proxy: bool = Field(
        False,
        description="Take the client's address from X-Forwarded-For (only behind your own load balancer).",
    )

    currency: Currency = Field("GBP", description="ISO 4217 code of the shop's prices.")
    secret: SecretStr = Field(
        SecretStr(""),
        description="At least 32 characters; signs access tokens and cursors. `quartet up` draws one.",
    )
    access_ttl: int = Field(900, ge=1, description="Seconds an access token lives.")
    refresh_ttl: int = Field(2_592_000, ge=60, description="Seconds a refresh token lives (30 days).")
    password_hashers: int = Field(1, ge=1, description="Threads that hash passwords (argon2id, 37 ms CPU each).")
    password_queue: int = Field(64, ge=1, description="Sign-ins that may wait for a hasher; past it 429.")
    order_hold_seconds: int = Field(900, ge=1, description="Seconds an unpaid order keeps its stock reserved.")
    product_cache_seconds: int = Field(900, ge=1, description="Bound of a cached product's age.")
    cart_days: int = Field(30, ge=1, description="Days an untouched cart is kept.")
    search_alias: str = Field("products", pattern=r"^[a-z][a-z0-9_-]*$", description="Alias of the search index.")
    search_replicas: int = Field(0, ge=0, description="Replicas of the search index (1 on a cluster).")

    limit_browse: int = Field(6000, ge=1, description="Reads a minute for a user, else for an address.")
    limit_search: int = Field(3000, ge=1, description="Searches a minute for a user, else for an address.")
    limit_write: int = Field(3000, ge=1, description="Writes a minute for a user, else for an address.")
    limit_auth: int = Field(1200, ge=1, description="Sign-ups and sign-ins a minute for an address.")
    limit_pay: int = Field(1200, ge=1, description="Orders and payments a minute for a user.")
    limit_sign_in_failures: int = Field(10, ge=1, description="Wrong passwords a minute for one e-mail address.")

    mail_url: str = Field("console:", description="`console:` prints e-mails; smtp://user:password@host:587 sends.")
    mail_from: str = Field("shop@localhost", description="Sender of the shop's e-mails.")
    payment_providers: tuple[str, ...] = Field(("sandbox",), description="Payment providers that are on (JSON list).")
    sandbox_webhook_secret: SecretStr = Field(
        SecretStr(""), description="Signs the sandbox provider's webhooks; drawn from `secret` when empty."
    )
    sandbox_slow_seconds: float = Field(3.0, ge=0, description="How long the sandbox takes over `card_slow`.")
    sandbox_async_seconds: float = Field(1.0, ge=0, description="How long `card_async` is pending at the sandbox.")
    payment_timeout: float = Field(10.0, gt=0, description="Seconds a provider may take; then `pending`, asked later.")

    request_timeout: float = Field(15.0, gt=0, description="Seconds after which a request is given up (504).")
    postgres_pool: int = Field(8, ge=1, description="PostgreSQL connections a process (more make it slower).")
    server_timing: bool = Field(
        False, description="Answers tell in `Server-Timing` which stores were asked, and how long each took."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")
    log_json: bool = Field(True, description="Logs as JSON lines; false for people.")
