"""What staff do with webhook endpoints."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from quartet.hooks import addresses, store
from quartet.hooks.addresses import Refused
from quartet.hooks.model import SALT_BYTES, TEST, Delivery, Endpoint, secret_of
from quartet.kernel.errors import Conflict, invalid
from quartet.kernel.ids import new_id
from quartet.web import trail
from quartet.web.dependencies import Principal, Shop


@dataclass(frozen=True)
class Change:
    """A change to an endpoint; None leaves a member as it is, an empty description removes it."""

    url: str | None = None
    events: tuple[str, ...] | None = None
    description: str | None = None
    enabled: bool | None = None


async def create(
    shop: Shop, principal: Principal, url: str, events: Sequence[str], description: str | None
) -> tuple[Endpoint, str]:
    """A new endpoint, and its secret, which is shown only here. Raises Invalid naming `url`."""
    await _refuse_bad(shop, url)
    now = shop.clock.now()
    endpoint = Endpoint(
        id=new_id(), url=url, events=_in_order(events), description=description, salt=secrets.token_bytes(SALT_BYTES),
        old_salt=None, old_until=None, enabled=True, disabled_reason=None, failures=0, opened=0, open_until=None,
        failing_since=None, created_by=principal.user_id, created_at=now, updated_at=now,
    )  # fmt: skip
    async with shop.stores.pg.tx() as tx:
        await store.add(tx, endpoint)
        await trail.record(
            tx, principal.actor, "webhook.create", "webhook-endpoint", endpoint.id, after=_seen(endpoint)
        )
    return endpoint, _secret(shop, endpoint)


async def change(shop: Shop, principal: Principal, id_: UUID, wanted: Change) -> Endpoint:
    """Changes it; enabling it, or another URL, resets its breaker. Raises NotFound, Invalid naming `url`."""
    if wanted.url is not None:
        await _refuse_bad(shop, wanted.url)
    async with shop.stores.pg.tx() as tx:
        before = await store.lock(tx, id_)
        after = replace(
            before,
            url=before.url if wanted.url is None else wanted.url,
            events=before.events if wanted.events is None else _in_order(wanted.events),
            description=before.description if wanted.description is None else wanted.description or None,
            updated_at=shop.clock.now(),
        )
        if after.url != before.url:
            after = after.succeeded()
        if wanted.enabled is True:
            after = after.switched_on()
        elif wanted.enabled is False and before.enabled:
            after = replace(after, enabled=False, disabled_reason="switched off by staff")
        await store.save(tx, after)
        await trail.record(
            tx, principal.actor, "webhook.change", "webhook-endpoint", id_, before=_seen(before), after=_seen(after)
        )
    return after


async def rotate(shop: Shop, principal: Principal, id_: UUID) -> tuple[Endpoint, str]:
    """A new secret, shown only here; the previous ones sign as well for a day. Raises NotFound."""
    now = shop.clock.now()
    async with shop.stores.pg.tx() as tx:
        before = await store.lock(tx, id_)
        after = before.rotated(secrets.token_bytes(SALT_BYTES), now)
        await store.save(tx, after)
        await trail.record(
            tx, principal.actor, "webhook.rotate", "webhook-endpoint", id_, after={"oldOneSignsUntil": after.old_until}
        )
    return after, _secret(shop, after)


async def remove(shop: Shop, principal: Principal, id_: UUID) -> None:
    """Removes it and its deliveries. Raises NotFound."""
    async with shop.stores.pg.tx() as tx:
        before = await store.lock(tx, id_)
        await store.remove(tx, id_)
        await trail.record(tx, principal.actor, "webhook.remove", "webhook-endpoint", id_, before=_seen(before))


async def test(shop: Shop, principal: Principal, id_: UUID) -> Delivery:
    """Sends a test event. Raises NotFound, Conflict (disabled)."""
    async with shop.stores.pg.tx() as tx:
        _refuse_disabled(await store.lock(tx, id_))
        delivery = await store.put(tx, id_, new_id(), TEST, shop.clock.now())
        await trail.record(
            tx, principal.actor, "webhook.test", "webhook-endpoint", id_, after={"delivery": delivery.id}
        )
    return delivery


async def redeliver(shop: Shop, principal: Principal, id_: UUID, delivery_id: int) -> Delivery:
    """Sends it again from the start, delivered before or not. Raises NotFound, Conflict (disabled, just being sent)."""
    async with shop.stores.pg.tx() as tx:
        endpoint = await store.lock(tx, id_)
        before = await store.delivery(tx, id_, delivery_id)
        _refuse_disabled(endpoint)
        delivery = await store.again(tx, id_, delivery_id, shop.clock.now())
        if delivery is None:
            raise Conflict("this delivery is on its way just now")
        await trail.record(
            tx, principal.actor, "webhook.redeliver", "webhook-endpoint", id_,
            before={"delivery": before.id, "state": before.state},
        )  # fmt: skip
    return delivery


def _refuse_disabled(endpoint: Endpoint) -> None:
    if not endpoint.enabled:
        raise Conflict("this endpoint is switched off")


async def _refuse_bad(shop: Shop, url: str) -> None:
    loopback = shop.settings.webhook_loopback
    try:
        parsed = addresses.parse(url, loopback=loopback)
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        await addresses.public_addresses(parsed.raw_host.decode(), port, addresses.resolve, loopback=loopback)
    except Refused as refusal:
        raise invalid("url", str(refusal)) from None


def _in_order(events: Sequence[str]) -> tuple[str, ...]:
    return ("*",) if "*" in events else tuple(sorted(set(events)))


def _secret(shop: Shop, endpoint: Endpoint) -> str:
    return secret_of(shop.settings.secret.get_secret_value(), endpoint.id, endpoint.salt)


def _seen(endpoint: Endpoint) -> dict[str, object]:
    """As the audit log may show it."""
    return {name: getattr(endpoint, name) for name in ("url", "events", "description", "enabled")}
