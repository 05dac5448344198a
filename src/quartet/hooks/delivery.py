"""Deliveries of events to webhook endpoints: stored when the outbox forgets the event, sent by the worker.

At least once: after a crash between the endpoint's acceptance and our record, the event is sent again with the same
`webhook-id`, by which the receiver recognises it. No transaction is open during a call to an endpoint.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from typing import Any

import orjson
import structlog
from pydantic.alias_generators import to_camel
from standardwebhooks import Webhook

from quartet import access
from quartet.hooks import store
from quartet.hooks.model import AttemptResult, Delivery, Endpoint
from quartet.hooks.sender import WHOLE_SECONDS, Sender, open_sender
from quartet.kernel.errors import NotFound
from quartet.stores import outbox, tallies
from quartet.stores.outbox import Event
from quartet.stores.postgres import Tx
from quartet.web.dependencies import Shop

log = structlog.get_logger("quartet.hooks")

AT_ONCE, EACH_AT_ONCE = 32, 4
IDLE_SECONDS = 0.5
# Longer than a try may take, so that it is tried again only when whoever tried is dead.
LEASE_SECONDS = WHOLE_SECONDS * 3
# The digest of a guest's cart token opens nothing, and means nothing to anybody outside.
_OURS_ALONE = {"guest_cart"}


async def keep(tx: Tx, events: Sequence[Event]) -> None:
    """Records the deliveries of these events, in the transaction that takes them out of the outbox."""
    if events:
        await store.keep(tx, [event.id for event in events])


async def run(shop: Shop) -> None:
    """Carries what is due, for ever. Raises StoreUnavailable when PostgreSQL is away: begin again then."""
    under_way: set[asyncio.Task[None]] = set()
    async with open_sender(loopback=shop.settings.webhook_loopback, at_once=AT_ONCE) as sender:
        try:
            while True:
                claimed = await _claim(shop, AT_ONCE - len(under_way))
                under_way |= {asyncio.create_task(_attempt(shop, sender, delivery)) for delivery in claimed}
                if under_way:
                    done, under_way = await asyncio.wait(
                        under_way, timeout=IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in done:
                        task.result()
                else:
                    await asyncio.sleep(IDLE_SECONDS)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)


async def _claim(shop: Shop, limit: int) -> list[Delivery]:
    if not limit:
        return []
    async with shop.stores.pg.tx() as tx:
        return await store.claim(tx, shop.clock.now(), each=EACH_AT_ONCE, limit=limit, lease_seconds=LEASE_SECONDS)


async def _attempt(shop: Shop, sender: Sender, delivery: Delivery) -> None:
    try:
        async with shop.stores.pg.read() as read:
            endpoint = await store.get(read, delivery.endpoint_id)
    except NotFound:
        return
    await shop.step("webhook claimed")
    body = body_of(delivery)
    result = await sender.post(endpoint.url, headers_of(shop, endpoint, delivery, body), body)
    await shop.step("webhook sent")
    await _record(shop, delivery, result)
    await shop.step("webhook marked")


def body_of(delivery: Delivery) -> bytes:
    """`{type, timestamp, data}`, as Standard Webhooks has it; the same bytes at every try."""
    at = delivery.happened_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return orjson.dumps({"type": delivery.topic, "timestamp": at, "data": _wire(delivery.payload)})


def _wire(value: Any) -> Any:
    """Names as everywhere on the wire, without internal members."""
    if isinstance(value, dict):
        return {to_camel(name): _wire(member) for name, member in value.items() if name not in _OURS_ALONE}
    return [_wire(member) for member in value] if isinstance(value, list) else value


def headers_of(shop: Shop, endpoint: Endpoint, delivery: Delivery, body: bytes) -> dict[str, str]:
    """Signed now, by every secret that is valid now."""
    now, id_ = shop.clock.now(), str(delivery.event_id)
    secrets = endpoint.secrets(shop.settings.all_secrets(), now)
    return {
        "Content-Type": "application/json",
        "User-Agent": "quartet-webhooks",
        "webhook-id": id_,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(id_, now, body.decode()) for secret in secrets),
    }


async def _record(shop: Shop, delivery: Delivery, result: AttemptResult) -> None:
    now = shop.clock.now()
    done = replace(delivery, status=result.status, answer=result.answer, error=result.error)
    if result.is_accepted:
        done = replace(done, state="delivered", done_at=now)
    elif (later := delivery.next_try(now)) is not None:
        done = replace(done, not_before=later)
    else:
        done = replace(done, state="dead", done_at=now)
    async with shop.stores.pg.tx() as tx:
        try:
            endpoint = await store.lock(tx, delivery.endpoint_id)
        except NotFound:
            return
        if not await store.finish(tx, done):
            return
        after = endpoint.succeeded() if result.is_accepted else endpoint.failed(now, result.status)
        if after != endpoint:
            await store.save(tx, replace(after, updated_at=endpoint.updated_at))
        if endpoint.enabled and not after.enabled:
            await _tell_disabled(tx, after)
        await tallies.count(tx, "webhooks.delivered" if result.is_accepted else "webhooks.failed")
        if done.state == "dead":
            await tallies.count(tx, "webhooks.dead")
    if not result.is_accepted:
        log.warning(
            "webhook not taken", endpoint=str(endpoint.id), event_id=str(delivery.event_id), topic=delivery.topic,
            attempt=delivery.attempts, status=result.status, error=result.error,
        )  # fmt: skip


async def _tell_disabled(tx: Tx, endpoint: Endpoint) -> None:
    log.error("webhook endpoint switched off", endpoint=str(endpoint.id), reason=endpoint.disabled_reason)
    payload = {
        "endpoint_id": str(endpoint.id), "url": endpoint.url, "reason": endpoint.disabled_reason,
        "user_id": str(await access.person(tx, endpoint.created_by)),
    }  # fmt: skip
    await outbox.emit(tx, "webhook.disabled", str(endpoint.id), payload)
