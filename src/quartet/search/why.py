"""Why a product has its position in the results, for staff.

Pins and boosts are known here; what the words add to the score comes from the engine's `_explanation`, from whose texts
only field, word and value are taken.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from quartet.merchandising import Ruling
from quartet.search.model import Reason, Tier
from quartet.search.query import TextSettings

Json = dict[str, Any]

# Fields of the mapping, and what they are called here; `all` has a subfield for each language.
_NAMES = {
    "words.name.plain": "exact", "words.name": "name", "words.brand": "brand", "words.more": "more",
    "words.description": "description", "all": "all", "skus": "sku", "id": "id",
    "category": "category",
}  # fmt: skip
_TERM = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, _NAMES))})(?:\.[a-z]+)?:\(?([^\s()^]+)")
# Nodes whose value is the sum of their parts. In a `max of` node only the greatest part counts.
_SUMS = re.compile(r"sum of:|max plus .* times others of:")


def reasons(explained: Json, id_: str, tier: Tier, text_settings: TextSettings, ruling: Ruling) -> list[Reason]:
    """The reasons for one hit: the pin first, then the boost by sales, then the matches, highest score first. The
    matches' scores add up to the hit's score before the boost; a pinned product's score means nothing."""
    pinned, raised = id_ in ruling.pinned, ruling.boosts.get(id_, 1.0)
    found: list[Reason] = []
    if pinned:
        place = ruling.pinned.index(id_) + 1
        found.append(Reason("pinned", f"pinned by staff, in place {place}"))
    if raised != 1:
        found.append(Reason("sells", f"sells well for this query: ×{raised:g}", factor=raised))
    matching = [_matches(terms, score, tier, text_settings) for terms, score in _parts(explained, pinned, raised)]
    return found + sorted(matching, key=lambda reason: -(reason.score or 0))


def _matches(terms: Mapping[str, str], score: float, tier: Tier, text_settings: TextSettings) -> Reason:
    found = " ".join(dict.fromkeys(" ".join(terms.values()).split()))
    if len(terms) > 1:  # the engine does not report which of these fields matched
        return Reason("matches", f"has “{found}” in one field or more", None, found, None, score)
    [name] = terms
    factor = text_settings.weights.get("name" if name == "exact" and tier is not Tier.EXACT else name)
    times = "" if factor is None else f", ×{factor:g}"
    return Reason("matches", f"has “{found}” in {name}{times}", name, found, factor, score)


def _parts(node: Json, pinned: bool, raised: float) -> Iterator[tuple[dict[str, str], float]]:
    """Words by field, and what they added to the score. A node of value 0 was only a filter."""
    description, value, inner = node["description"], node["value"], node.get("details") or []
    if value == 0:
        return
    if description.startswith("function score"):
        if inner:  # first the query; then the multiplier, which is known
            yield from _parts(inner[0], pinned, raised)
            return
        value /= raised
    elif inner and _SUMS.search(description):
        for each in inner:
            yield from _parts(each, pinned, raised)
        return
    elif inner and "max of:" in description:
        yield from _parts(max(inner, key=lambda part: part["value"]), pinned, raised)
        return
    terms = _terms(description)
    # Skip the pin's own boost; or, where an engine reports only the total, what may be nothing but the pin.
    if not (terms.pop("id", None) and pinned) and terms:
        yield terms, value


def _terms(description: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for path, word in _TERM.findall(description):
        name = _NAMES[path]
        found[name] = f"{found[name]} {word}" if name in found else word
    return found
