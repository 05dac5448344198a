"""The search index: its definition, its alias, and what goes into and comes out of it."""

import hashlib
from copy import deepcopy
from typing import Any

import orjson

from quartet.kernel.settings import Settings
from quartet.stores.files import json_file
from quartet.stores.search import SearchEngine, SearchRefused

Json = dict[str, Any]

INDEX: Json = json_file(__file__, "index.json")


def definition(settings: Settings) -> Json:
    """Settings and mappings as created; `_meta.definition` tells later whether an index is of this very kind."""
    made = deepcopy(INDEX)
    made["settings"]["index"]["number_of_replicas"] = settings.search_replicas
    made["mappings"]["_meta"] = {"definition": hashlib.sha256(orjson.dumps(INDEX)).hexdigest()[:16]}
    return made


async def prepare(search: SearchEngine, settings: Settings) -> None:
    """An index behind the alias where there is none. Idempotent, also for two processes at once: the first index has a
    fixed name and is made together with its alias in one call, so one of them makes it and the other is refused."""
    alias = settings.search_alias
    if await search.alias_target(alias) is None:
        try:
            await search.create_index(f"{alias}-first", definition(settings), aliases=[alias])
        except SearchRefused:
            if await search.alias_target(alias) is None:
                raise
