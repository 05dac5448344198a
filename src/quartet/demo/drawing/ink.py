"""Colours and the SVG elements that every image is made of. Pure functions that return text."""

# ruff: noqa: PLR0917 -- a coordinate reads best where SVG puts it: by position.
import colorsys
import zlib
from collections.abc import Mapping
from html import escape
from typing import Any

Product = Mapping[str, Any]

SIDE = 400
"""Every picture is a square of this many user units."""

COLOURS = {
    "black": "#2f3238",
    "blue": "#3f78c4",
    "brown": "#7c5436",
    "charcoal": "#474b52",
    "clear": "#b9d6e0",
    "coral": "#ee7c67",
    "cream": "#efe1c3",
    "graphite": "#595e67",
    "green": "#3d8a57",
    "grey": "#8b9199",
    "mint": "#8fd6ba",
    "natural": "#e4d5b2",
    "navy": "#2b4270",
    "olive": "#707543",
    "orange": "#e7812f",
    "pink": "#eaa3b3",
    "red": "#c53b3b",
    "sage": "#97b18a",
    "sand": "#d8bf95",
    "silver": "#c1c7ce",
    "slate": "#5d6a7b",
    "tan": "#c08f58",
    "teal": "#1f8884",
    "white": "#f7f6f2",
    "yellow": "#efc03a",
}


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def mix(colour: str, other: str, share: float) -> str:
    """`colour` mixed with a `share` (0 to 1) of `other`, both `#rrggbb`."""
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def lighter(colour: str, share: float) -> str:
    return mix(colour, "#ffffff", share)


def darker(colour: str, share: float) -> str:
    return mix(colour, "#14161c", share)


def is_pale(colour: str) -> bool:
    red, green, blue = _channels(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue > 190


def accent(product: Product, saturation: float = 0.5, lightness: float = 0.5) -> str:
    """A colour derived from the hash of the product's slug, so that it is the same in every run."""
    hue = (zlib.crc32(str(product["slug"]).encode()) % 24) / 24
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def colour_of(product: Product, default: str) -> str:
    """The product's colour, or its first variant's, as `#rrggbb`; `default` if it has none."""
    first = product["variants"][0]["attrs"] if product["variants"] else {}
    name = product["attrs"].get("color") or first.get("color")
    return COLOURS[name] if name else default


def rect(x: float, y: float, w: float, h: float, fill: str, r: float = 0, more: str = "") -> str:
    corner = f' rx="{r:g}"' if r else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}"{corner} fill="{fill}"{_more(more)}/>'


def dot(x: float, y: float, r: float, fill: str, more: str = "") -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="{fill}"{_more(more)}/>'


def oval(x: float, y: float, rx: float, ry: float, fill: str, more: str = "") -> str:
    return f'<ellipse cx="{x:g}" cy="{y:g}" rx="{rx:g}" ry="{ry:g}" fill="{fill}"{_more(more)}/>'


def shape(d: str, fill: str, more: str = "") -> str:
    return f'<path d="{d}" fill="{fill}"{_more(more)}/>'


def line(d: str, stroke: str, width: float, more: str = "") -> str:
    return f'<path d="{d}" fill="none" stroke="{stroke}" stroke-width="{width:g}" stroke-linecap="round"{_more(more)}/>'


def group(body: str, transform: str) -> str:
    return f'<g transform="{transform}">{body}</g>'


def zoom(body: str, scale: float, x: float = SIDE / 2, y: float = SIDE / 2) -> str:
    """`body` scaled about the point (x, y)."""
    return group(body, f"translate({x - x * scale:g} {y - y * scale:g}) scale({scale:g})")


def words(x: float, y: float, text: str, size: float, fill: str, more: str = "") -> str:
    place = f'x="{x:g}" y="{y:g}" font-size="{size:g}"'
    return f'<text {place} fill="{fill}"{_more(more)}>{escape(text, quote=False)}</text>'


def shadow(half_width: float, y: float = 340) -> str:
    return oval(SIDE / 2, y, half_width, 11, "#000", 'opacity=".13"')


def picture(title: str, backdrop: str, body: str) -> str:
    """A complete SVG file: the drawing on a plain backdrop; `title` is for screen readers."""
    ground = "#cfd8de" if is_pale(backdrop) else mix(backdrop, "#ffffff", 0.8)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" role="img">'
    light = dot(200, 190, 150, "#fff", 'opacity=".4"')
    return f"{head}<title>{escape(title, quote=False)}</title>{rect(0, 0, SIDE, SIDE, ground)}{light}{body}</svg>\n"


def _more(more: str) -> str:
    return f" {more}" if more else ""
