"""One-line messages for errors of a store or its driver, for the administrator."""

import asyncpg
from pymongo.errors import PyMongoError

from quartet.kernel.errors import StoreUnavailable
from quartet.stores import resp
from quartet.stores.postgres import Violation
from quartet.stores.search import SearchRefused

_SAID_BY = {
    "postgres": (asyncpg.PostgresError, asyncpg.InterfaceError, Violation),
    "mongodb": (PyMongoError,),
    "redis": (resp.Refused,),
    "search": (SearchRefused,),
}


def describe_store_error(error: Exception) -> str | None:
    """The message, with the name of the store's URL setting; None if the error is not a store's."""
    if isinstance(error, StoreUnavailable):
        store, what = error.store, str(error)
    else:
        store = what = next((name for name, kinds in _SAID_BY.items() if isinstance(error, kinds)), "")
    why = reason(error)
    told = what if why == what else f"{what}: {why}"
    return f"{told} (QUARTET_{store.upper().replace('-', '_')}_URL)" if store else None


def reason(error: BaseException) -> str:
    """The first line of the innermost cause's message: the driver's or the operating system's."""
    said = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        said = str(error) or said
    return said.partition("\n")[0].partition(" caused by: ")[0].partition(", full error: ")[0]
