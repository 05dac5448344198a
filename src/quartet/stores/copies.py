"""Dumps of whole stores: PostgreSQL by its own tools, MongoDB's documents as concatenated BSON, which is also the
format of `mongodump` and `mongorestore`."""

import asyncio
import os
from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

import bson

from quartet.stores.mongo import Document

_AWARE: bson.CodecOptions[Document] = bson.CodecOptions(tz_aware=True)


async def run_tool(tool: Path, *words: str, url: str = "") -> None:
    """Runs `pg_dump` or `pg_restore` on the database of this URL. Raises ValueError with the first line of its error
    output. The password is passed in the environment, since every user can read a process's command line."""
    environment = dict(os.environ)
    if url:
        parts = urlsplit(url)
        environment["PGPASSWORD"] = unquote(parts.password or "")
        user, _, host = parts.netloc.rpartition("@")
        shown = parts._replace(netloc=f"{user.partition(':')[0]}@{host}" if user else host)
        words = (f"--dbname={shown.geturl()}", "--no-password", *words)
    process = await asyncio.create_subprocess_exec(
        tool, *words, env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        complaints = said.decode(errors="replace").splitlines() or [f"exit code {process.returncode}"]
        raise ValueError(f"{tool.name} failed: {complaints[0].removeprefix(f'{tool.name}: ')}")


def bson_of(documents: Iterable[Document]) -> bytes:
    """The documents, concatenated."""
    return b"".join(bson.encode(document) for document in documents)


def documents_in(path: Path, batch: int) -> Generator[list[Document]]:
    """The documents of a file in batches, in their order."""
    with path.open("rb") as file:
        found = bson.decode_file_iter(file, _AWARE)
        while some := list(islice(found, batch)):
            yield some
