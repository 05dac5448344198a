"""Addresses in PostgreSQL."""

from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from quartet.addresses.model import MOST, Address, TooManyAddresses
from quartet.kernel.errors import NotFound, Unauthenticated, invalid
from quartet.kernel.ids import new_id
from quartet.stores.files import queries
from quartet.stores.postgres import Read, Tx

q = queries(__file__)

_FIELDS = ("name", "line1", "line2", "city", "region", "postal_code", "country", "phone", "is_default")


async def of_user(read: Read, user_id: UUID) -> list[Address]:
    """All of them, the default first, then the newest."""
    return [Address(**row) for row in await read.fetch(q.of_user, user_id)]


async def get(read: Read, user_id: UUID, address_id: UUID) -> Address:
    """Raises NotFound, also for another's."""
    row = await read.fetchrow(q.get, address_id, user_id)
    if row is None:
        raise NotFound(f"you have no address {address_id}")
    return Address(**row)


async def add(tx: Tx, user_id: UUID, fields: dict[str, Any], now: datetime) -> Address:
    """Raises TooManyAddresses, Unauthenticated (the user is gone)."""
    await _lock(tx, user_id)
    if fields["is_default"]:
        await tx.execute(q.clear_default, user_id)
    values = [fields[name] for name in _FIELDS]
    row = await tx.fetchrow(q.insert, new_id(), user_id, *values, now, MOST)
    if row is None:
        raise TooManyAddresses()
    return Address(**row)


async def change(tx: Tx, user_id: UUID, address_id: UUID, fields: dict[str, Any], now: datetime) -> Address:
    """Raises NotFound; Invalid if the default address is to stop being it: only making another one the default does
    that."""
    await _lock(tx, user_id)
    before = await get(tx, user_id, address_id)
    after = asdict(before) | fields
    if before.is_default and not after["is_default"]:
        raise invalid("isDefault", "stays true until another address is made the default")
    if after["is_default"] and not before.is_default:
        await tx.execute(q.clear_default, user_id)
    return Address(**await tx.fetchrow(q.update, address_id, user_id, *(after[name] for name in _FIELDS), now))


async def remove(tx: Tx, user_id: UUID, address_id: UUID) -> None:
    """Raises NotFound. If the default is deleted, the newest of the others becomes the default."""
    await _lock(tx, user_id)
    was_default = await tx.fetchval(q.delete, address_id, user_id)
    if was_default is None:
        raise NotFound(f"you have no address {address_id}")
    if was_default:
        await tx.execute(q.promote, user_id)


async def forget(tx: Tx, user_id: UUID) -> None:
    """Deletes all of the user's addresses."""
    await tx.execute(q.forget, user_id)


async def _lock(tx: Tx, user_id: UUID) -> None:
    if await tx.fetchval(q.lock, user_id) is None:
        raise Unauthenticated("this account is gone")
