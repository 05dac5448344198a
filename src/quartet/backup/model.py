"""What a folder with a backup says of itself."""

import hashlib
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import orjson

from quartet.kernel.errors import writing

NAME = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Kept:
    """One file: how long it is, and what it adds up to."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Written last: a folder without one is no backup. `point`: everything that PostgreSQL had committed by then is in;
    `migrations` are the numbers of those it had; `documents` counts them by collection."""

    format: int
    point: datetime
    migrations: list[str]
    documents: dict[str, int]
    files: dict[str, Kept]


def make(folder: Path) -> None:
    """A folder that only its owner may read: it holds addresses and password hashes. Raises ValueError unless it is new
    or empty."""
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty: name a new folder")
        folder.chmod(0o700)  # one that was there already is often open to everybody


def kept(path: Path) -> Kept:
    """What to remember of a file."""
    with path.open("rb") as file:
        return Kept(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def write(folder: Path, manifest: Manifest) -> None:
    """All of it or nothing."""
    half = folder / f"{NAME}.part"
    with half.open("wb") as file:
        file.write(orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2))
        keep(file)
    half.replace(folder / NAME)


def keep(file: BinaryIO) -> None:
    """What was written is on the disk, before anything says so. `pg_dump` does the same with its own."""
    file.flush()
    os.fsync(file.fileno())


def read(folder: Path) -> Manifest:
    """Raises ValueError that says what is wrong with the folder."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    if not (folder / NAME).exists():
        raise ValueError(f"{folder} holds no finished backup: it has no {NAME}")
    try:
        said = orjson.loads((folder / NAME).read_bytes())
        if said["format"] > FORMAT:
            raise ValueError(f"{folder} was written by a newer Quartet, in a form that this one can't read")
        files = {name: Kept(**each) for name, each in said["files"].items()}
        point = datetime.fromisoformat(said["point"])
        return Manifest(said["format"], point, list(said["migrations"]), dict(said["documents"]), files)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / NAME} can't be read: {error}") from error


def verify(folder: Path, manifest: Manifest) -> None:
    """Raises ValueError naming the first file that is not what was written."""
    for name, wanted in manifest.files.items():
        path = folder / name
        if not path.exists():
            raise ValueError(f"{path} is missing")
        found = kept(path)
        if found.size != wanted.size:
            raise ValueError(f"{path} has {found.size} bytes and had {wanted.size} when it was written")
        if found != wanted:
            raise ValueError(f"{path} is not what was written: its checksum differs")
