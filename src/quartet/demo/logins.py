"""The three demo logins and the file with their passwords."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Login(NamedTuple):
    email: str
    name: str
    roles: tuple[str, ...]


LOGINS = (
    Login("shopper@demo.test", "Sam Shopper", ()),
    Login("staff@demo.test", "Stella Staff", ("staff",)),
    Login("admin@demo.test", "Ada Admin", ("admin",)),
)

FILE = "demo-logins.json"


def new_password() -> str:
    """Sixteen letters in groups of four: 80 bits, and still possible to type from a screen."""
    letters = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(16))
    return "-".join(letters[start : start + 4] for start in range(0, 16, 4))


def kept(data_dir: Path) -> dict[str, str]:
    """Passwords by address from an earlier start; an unreadable file counts as none, since new ones can be set."""
    try:
        found = json.loads((data_dir / FILE).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {email: password for email, password in found.items() if isinstance(password, str)}


def keep(data_dir: Path, passwords: Mapping[str, str]) -> None:
    """Writes the file atomically, readable only by its owner."""
    data_dir.mkdir(parents=True, exist_ok=True)
    draft = data_dir / f".{FILE}.{secrets.token_hex(4)}"
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(json.dumps(passwords, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(data_dir / FILE)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
