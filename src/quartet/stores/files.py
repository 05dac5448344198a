"""Loads SQL, Lua and JSON from files beside the module that uses them."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


class Queries:
    """The named statements of one `queries.sql`; `q.reserve` is the text under `-- name: reserve`."""

    def __init__(self, path: Path) -> None:
        parts = _NAME.split(path.read_text(encoding="utf-8"))
        self.path = path
        self.texts = {name: text.strip().rstrip(";") for name, text in zip(parts[1::2], parts[2::2], strict=True)}
        if len(self.texts) * 2 + 1 != len(parts):
            raise ValueError(f"{path}: a name is given twice")

    def __getattr__(self, name: str) -> str:
        try:
            return self.texts[name]
        except KeyError:
            raise AttributeError(f"{self.path} has no query named {name}") from None


@dataclass(frozen=True)
class Script:
    """A Lua script and its SHA-1, for EVALSHA."""

    text: str
    sha: str


def queries(owner: str) -> Queries:
    """The `queries.sql` beside the module: `q = queries(__file__)`."""
    return Queries(Path(owner).with_name("queries.sql"))


def lua(owner: str, name: str) -> Script:
    """A Lua file beside the module: `lua(__file__, "add.lua")`."""
    text = Path(owner).with_name(name).read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def json_file(owner: str, name: str) -> Any:
    """A JSON file beside the module, parsed."""
    return json.loads(Path(owner).with_name(name).read_text(encoding="utf-8"))
