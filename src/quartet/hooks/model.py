"""Webhook endpoints, the events they may receive, and their circuit breaker."""

import base64
import hmac
import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

Breaker = Literal["closed", "open", "half-open", "disabled"]
State = Literal["pending", "delivered", "dead"]

# What can be listened to; `*` is all of it. `webhook.test` comes when it is asked for.
EVENTS = (
    "order.placed",
    "order.confirmed",
    "order.captured",
    "order.shipped",
    "order.delivered",
    "order.cancelled",
    "order.refunded",
    "payment.contested",
    "payment.settled",
    "payment.returned",
    "refund.failed",
    "stock.changed",
    "price.changed",
    "user.erased",
)
TEST = "webhook.test"

# Failures in a row after which an endpoint is left alone, longer each time; and how long one may fail.
FAILURES = 5
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
DISABLED_AFTER = timedelta(days=3)
# Between the tries of one delivery: 5 s, 15 s, 45 s … 6 h, give or take a fifth, for a day.
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=5), timedelta(hours=6)
# As long as this nothing is tried only where nothing waits.
REST = 2 * LONGEST_WAIT
OLD_SECRET = timedelta(hours=24)
SALT_BYTES, OLD_SECRETS = 16, 8
GONE = 410
# Of 4xx those that speak of the moment and not of what was sent: a time-out, and too many requests.
WAITS = (408, 429)


@dataclass(frozen=True)
class Endpoint:
    """`failures` in a row; `opened`: how often the breaker has opened since it was last closed."""

    id: UUID
    url: str
    events: tuple[str, ...]
    description: str | None
    salt: bytes
    old_salt: bytes | None
    old_until: datetime | None
    enabled: bool
    disabled_reason: str | None
    failures: int
    opened: int
    open_until: datetime | None
    failing_since: datetime | None
    created_by: UUID
    created_at: datetime
    updated_at: datetime

    def breaker(self, now: datetime) -> Breaker:
        """`half-open`: one delivery is let through, to see."""
        if not self.enabled:
            return "disabled"
        if self.opened == 0:
            return "closed"
        return "open" if self.open_until is not None and self.open_until > now else "half-open"

    def succeeded(self) -> "Endpoint":
        """It accepted something: the breaker is reset."""
        return replace(self, failures=0, opened=0, open_until=None, failing_since=None)

    def failed(self, now: datetime, status: int | None) -> "Endpoint":
        """It did not accept something. After some failures in a row the breaker opens, for longer each time; after days
        of that, or when it answers 410, the endpoint is disabled. Failures before a long rest, in which there was
        nothing to send, do not count."""
        if self.open_until is not None and now - self.open_until > REST:
            return self.succeeded().failed(now, status)
        since = self.failing_since or now
        after = replace(self, failures=self.failures + 1, failing_since=since)
        if status is not None and 400 <= status < 500 and status not in WAITS:
            # It is there, and will not have this one: no reason to keep the others from it. A rest may begin here.
            after = replace(self.succeeded(), failing_since=since, open_until=now)
        elif after.failures >= FAILURES and self.breaker(now) != "open":
            pause = min(FIRST_PAUSE * 2.0**self.opened, LONGEST_PAUSE)
            after = replace(after, opened=self.opened + 1, open_until=now + pause)
        reason = None
        if status == GONE:
            reason = "it answered 410 Gone"
        elif now - since > DISABLED_AFTER:
            reason = f"nothing was taken since {since.isoformat(timespec='seconds')}"
        return replace(after, enabled=False, disabled_reason=reason) if reason and after.enabled else after

    def switched_on(self) -> "Endpoint":
        """Enabled by hand, as if new."""
        return replace(self.succeeded(), enabled=True, disabled_reason=None)

    def old_salts(self, now: datetime) -> bytes:
        """One behind the other, the newest first."""
        return self.old_salt if self.old_salt and self.old_until and now < self.old_until else b""

    def rotated(self, salt: bytes, now: datetime) -> "Endpoint":
        """Another salt. If it is rotated twice (the first answer may have been lost), the receiver still uses the
        secret before, so all of this day keep signing, as many as fit into a header."""
        old = (self.salt + self.old_salts(now))[: OLD_SECRETS * SALT_BYTES]
        return replace(self, salt=salt, old_salt=old, old_until=now + OLD_SECRET, updated_at=now)

    def secrets(self, shop_secrets: list[str], now: datetime) -> list[str]:
        """Those that sign now, the newest first: of the present salt and, for a day after a rotation, of those before,
        each under the shop's secret and under those that are retired."""
        old = self.old_salts(now)
        salts = [self.salt, *(old[first : first + SALT_BYTES] for first in range(0, len(old), SALT_BYTES))]
        return [secret_of(shop_secret, self.id, salt) for salt in salts for shop_secret in shop_secrets]


def secret_of(shop_secret: str, endpoint_id: UUID, salt: bytes) -> str:
    """`whsec_` and 256 bits, derived from the shop's secret and the salt together."""
    key = sha256(b"webhook:" + shop_secret.encode()).digest()
    drawn = hmac.digest(key, endpoint_id.bytes + salt, "sha256")
    return f"whsec_{base64.b64encode(drawn).decode()}"


@dataclass(frozen=True)
class Delivery:
    """An event on its way to an endpoint. `attempts` counts the present one; `answer` is the beginning of what the
    endpoint said last."""

    id: int
    endpoint_id: UUID
    event_id: UUID
    topic: str
    key: str
    payload: dict[str, Any]
    happened_at: datetime
    state: State
    attempts: int
    not_before: datetime
    leased_until: datetime | None
    give_up_at: datetime
    status: int | None
    answer: str | None
    error: str | None
    created_at: datetime
    done_at: datetime | None

    def next_try(self, now: datetime) -> datetime | None:
        """When to retry after a failure; None: that was the last attempt."""
        wait = min(FIRST_WAIT * 3.0 ** (self.attempts - 1), LONGEST_WAIT) * random.uniform(0.8, 1.2)
        return now + wait if now + wait < self.give_up_at else None


@dataclass(frozen=True)
class AttemptResult:
    """The outcome of an attempt. Only 2xx is success; `error` says why there is no `status`."""

    status: int | None = None
    answer: str | None = None
    error: str | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the endpoint accepted it."""
        return self.status is not None and 200 <= self.status < 300
