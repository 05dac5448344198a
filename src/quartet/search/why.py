"""Why a product stands where it stands, for staff.

What staff and sales say of a product is known here; what its words add the engine explains, in a text of its own, of
which nothing but field, word and value gets any further.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from quartet.merchandising import Ruling
from quartet.search.model import Reason, Tier
from quartet.search.query import Reading

Json = dict[str, Any]

# As the mapping names them; `all` has a field more for each language.
_NAMES = {
    "words.name.plain": "exact", "words.name": "name", "words.brand": "brand", "words.more": "more",
    "words.description": "description", "all": "all", "skus": "sku", "id": "id",
    "category": "category",
}  # fmt: skip
_TERM = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, _NAMES))})(?:\.[a-z]+)?:\(?([^\s()^]+)")
# What adds up from its parts. Of `max of` the greatest part is all.
_SUMS = re.compile(r"sum of:|max plus .* times others of:")


def reasons(explained: Json, id_: str, tier: Tier, reading: Reading, said: Ruling) -> list[Reason]:
    """Of one product of an answer: first what staff, then what sales say, then what matches, the most first. What
    matches adds up to its score, once sales have raised it; a pinned product has no score to speak of."""
    pinned, raised = id_ in said.pinned, said.boosts.get(id_, 1.0)
    found: list[Reason] = []
    if pinned:
        place = said.pinned.index(id_) + 1
        found.append(Reason("pinned", f"pinned by staff, in place {place}"))
    if raised != 1:
        found.append(Reason("sells", f"sells well for this query: ×{raised:g}", factor=raised))
    matching = [_matches(terms, score, tier, reading) for terms, score in _parts(explained, pinned, raised)]
    return found + sorted(matching, key=lambda reason: -(reason.score or 0))


def _matches(terms: Mapping[str, str], score: float, tier: Tier, reading: Reading) -> Reason:
    found = " ".join(dict.fromkeys(" ".join(terms.values()).split()))
    if len(terms) > 1:  # the engine has not told in which of them
        return Reason("matches", f"has “{found}” in one field or more", None, found, None, score)
    [name] = terms
    factor = reading.weights.get("name" if name == "exact" and tier is not Tier.EXACT else name)
    times = "" if factor is None else f", ×{factor:g}"
    return Reason("matches", f"has “{found}” in {name}{times}", name, found, factor, score)


def _parts(node: Json, pinned: bool, raised: float) -> Iterator[tuple[dict[str, str], float]]:
    """Words by field, and what they added. Whatever adds nothing only had to hold."""
    description, value, inner = node["description"], node["value"], node.get("details") or []
    if value == 0:
        return
    if description.startswith("function score"):
        if inner:  # the query, and then by what it was multiplied, which is known
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
    # A pin's own weight; or, where an engine tells only the whole, perhaps nothing but the pin.
    if not (terms.pop("id", None) and pinned) and terms:
        yield terms, value


def _terms(description: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for path, word in _TERM.findall(description):
        name = _NAMES[path]
        found[name] = f"{found[name]} {word}" if name in found else word
    return found
