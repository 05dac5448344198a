"""Templates of e-mails: `templates/<kind>.txt`, whose first line is the subject, and `templates/<kind>.html`."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from quartet.kernel.money import format_money
from quartet.notify.model import RenderedMail

FOLDER = Path(__file__).with_name("templates")
_SUBJECT = "Subject: "


def write(kind: str, args: dict[str, Any]) -> RenderedMail:
    """The e-mail. What people call themselves and things is text, never markup, and no header of its own."""
    first, _, text = _templates().get_template(f"{kind}.txt").render(args).partition("\n")
    html = _templates().get_template(f"{kind}.html").render(args)
    return RenderedMail(" ".join(first.removeprefix(_SUBJECT).split()), text.strip() + "\n", html)


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(FOLDER),
        auto_reload=False,  # else every e-mail looks whether its templates have changed
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["money"] = format_money
    return found
