"""Known-item search over real names: how often a query drawn from a product's name finds that product.

The products are the retailer's (real names) and those of the demo catalog. From each name queries are drawn by the
rules of `KINDS`, with a fixed seed. A query counts only if at most ten products match it, so that one page can hold all
of them; for a brand with a category every product of both is right. The products are split in two halves by a digest of
their SKU: one is for tuning, the figures are from the other.

`brief` is the brief's own mapping and query; `ours` is the shop's. Typeahead suggestions, which the brief does not
specify, are measured in the same way: by prefixes of words, some of them with a typo.
"""

import asyncio
import hashlib
import random
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from quartet import search
from quartet.demo import model as demo
from quartet.devstores import Place
from quartet.devstores import search as local_search
from quartet.kernel.settings import Settings
from quartet.retail import dataset, shelves
from quartet.retail.model import SERVICES
from quartet.search import Wanted
from quartet.stores.search import SearchEngine

SEED = 20101201
PAGE = 10
NOW = datetime(2026, 6, 1, tzinfo=UTC)
Json = dict[str, Any]
Half = str  # "tuning" or "report"


# --- Products -------------------------------------------------------------------------------------------------------


def products(lines: int | None = None) -> list[Json]:
    """The catalog's documents: the demo's, then the retailer's in order of SKU, as named in the first `lines` lines of
    its file."""
    own = [_own(product) for product in demo.load().products]
    return own + [_theirs(sku, goods) for sku, goods in sorted(_goods(lines).items())]


def _goods(lines: int | None) -> dict[str, Any]:
    with dataset.opened(dataset.SHIPPED) as (text, _):
        goods = dataset.survey(islice(dataset.read(text), lines)).goods
    return {sku: found for sku, found in goods.items() if sku not in SERVICES and re.search(r"[A-Z]{3}", found.name)}


def _document(sku: str, **more: Any) -> Json:
    plain: Json = {"brand": None, "images": [], "variants": [], "priceCents": 1000, "available": 1,
             "ratings": {"avg": 0.0, "count": 0}, "publishedAt": datetime(2025, 1, 1, tzinfo=UTC)}  # fmt: skip
    return {**plain, "_id": f"id-{sku}", "sku": sku, "slug": sku.lower(), **more}


def _own(product: Json) -> Json:
    taken = {key: product[key] for key in ("name", "brand", "category", "description", "attrs", "tags", "ratings")}
    variants = [{**variant, "available": variant["stock"]} for variant in product["variants"]]
    return _document(product["sku"], **taken, variants=variants, priceCents=product["priceCents"])


def _theirs(sku: str, goods: Any) -> Json:
    draft = shelves.draft(sku, goods)
    taken = {key: getattr(draft, key) for key in ("name", "category", "description", "attrs", "tags")}
    return _document(sku, **taken, priceCents=goods.price_cents)


def half(sku: str) -> Half:
    """The half to which a product's queries belong."""
    return "tuning" if hashlib.sha256(sku.encode()).digest()[0] % 2 else "report"


# --- Queries --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Query:
    """A query's text, and the SKUs that count as right."""

    kind: str
    text: str
    right: frozenset[str]
    half: Half


class Drawing:
    """Draws queries from names by the rules."""

    def __init__(self, shelf: Sequence[Json], seed: int = SEED) -> None:
        self.shelf = shelf
        self.draw = random.Random(seed)
        self.by_word: dict[str, set[str]] = defaultdict(set)
        self.by_beginning: dict[str, set[str]] = defaultdict(set)
        for product in shelf:
            for word in _words(f"{product['brand'] or ''} {product['name']}"):
                self.by_word[word].add(product["sku"])
                for length in range(1, len(word) + 1):
                    self.by_beginning[word[:length]].add(product["sku"])

    def fitting(self, wanted: Iterable[str]) -> set[str]:
        """The SKUs whose brand and name have all these words."""
        return set.intersection(*(self.by_word.get(word, set()) for word in wanted))

    def fitting_so_far(self, whole: Sequence[str], begun: str) -> set[str]:
        """The SKUs that have all the whole words, and a word with this prefix."""
        begin = self.by_beginning.get(begun, set())
        return self.fitting(whole) & begin if whole else begin

    def queries(self, kinds: Mapping[str, "Rule"] | None = None) -> list[Query]:
        """A query for every product and kind, if the name allows one; by default the `KINDS` of searches."""
        drawn: list[Query] = []
        for product in self.shelf:
            for kind, rule in (KINDS if kinds is None else kinds).items():
                text, right = rule(self, product) or ("", set())
                if text and 1 <= len(right) <= PAGE:
                    drawn.append(Query(kind, text, frozenset(right), half(product["sku"])))
        return drawn

    def some(self, product: Json, counts: Sequence[int] = (2, 3)) -> list[str] | None:
        """Two or three of a name's words, in order, such that at most ten products have all of them."""
        of_name = list(dict.fromkeys(word for word in _words(product["name"]) if len(word) > 2))
        for _ in range(8):
            count = self.draw.choice(counts)
            if len(of_name) < count:
                continue
            chosen = sorted(self.draw.sample(range(len(of_name)), count))
            picked = [of_name[n] for n in chosen]
            if len(self.fitting(picked)) <= PAGE:
                return picked
        return None


def _words(name: str) -> list[str]:
    return re.findall(r"[\w']+", name.lower())


Drawn = tuple[str, set[str]] | None
Rule = Callable[[Drawing, Json], Drawn]


def _all_words(drawing: Drawing, product: Json) -> Drawn:
    return product["name"], drawing.fitting(_words(product["name"]))


def _some_words(drawing: Drawing, product: Json) -> Drawn:
    picked = drawing.some(product)
    return (" ".join(picked), drawing.fitting(picked)) if picked else None


def _turned(drawing: Drawing, product: Json) -> Drawn:
    picked = drawing.some(product)
    return (" ".join(reversed(picked)), drawing.fitting(picked)) if picked else None


def _misspelt(change: Callable[[random.Random, str, int], str]) -> Rule:
    def rule(drawing: Drawing, product: Json) -> Drawn:
        picked = drawing.some(product)
        long = [n for n, word in enumerate(picked or []) if len(word) >= 4 and word.isalpha()]
        if not picked or not long:
            return None
        at, right = drawing.draw.choice(long), drawing.fitting(picked)
        wrong = change(drawing.draw, picked[at], drawing.draw.randrange(len(picked[at])))
        return " ".join([*picked[:at], wrong, *picked[at + 1 :]]), right

    return rule


def _dropped(_: random.Random, word: str, at: int) -> str:
    return word[:at] + word[at + 1 :]


def _doubled(_: random.Random, word: str, at: int) -> str:
    return word[:at] + word[at] + word[at:]


def _swapped(_: random.Random, word: str, at: int) -> str:
    at = min(at, len(word) - 2)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _replaced(draw: random.Random, word: str, at: int) -> str:
    return word[:at] + draw.choice("abcdefghijklmnopqrstuvwxyz".replace(word[at], "")) + word[at + 1 :]


def _other_number(drawing: Drawing, product: Json) -> Drawn:
    """The last word in the singular if it is a plural, else in the plural."""
    picked = drawing.some(product)
    if not picked:
        return None
    last = picked[-1]
    other = last[:-1] if last.endswith("s") and not last.endswith("ss") else f"{last}s"
    fits = drawing.fitting(picked) if last.isalpha() else set()
    return " ".join([*picked[:-1], other]), fits


def _begun(drawing: Drawing, product: Json) -> Drawn:
    """Words while being typed: the last one is incomplete and has at least four letters."""
    picked = drawing.some(product)
    if not picked or len(picked[-1]) < 5:
        return None
    begun = picked[-1][: drawing.draw.randrange(4, len(picked[-1]))]
    return " ".join([*picked[:-1], begun]), drawing.fitting_so_far(picked[:-1], begun)


def _typed_so_far(whole: int, fewest: int, most: int = 99) -> Rule:
    """A rule: `whole` words of the name, and an incomplete later word of `fewest` to `most` letters."""

    def rule(drawing: Drawing, product: Json) -> Drawn:
        return _so_far(drawing, product, whole, fewest, most)

    return rule


def _so_far(drawing: Drawing, product: Json, whole: int, fewest: int, most: int) -> Drawn:
    """The first of eight draws that matches at most ten products."""
    of_name = list(dict.fromkeys(word for word in _words(product["name"]) if word[0] != "'"))
    for _ in range(8):
        if len(of_name) <= whole:
            return None
        *before, word = (of_name[n] for n in sorted(drawing.draw.sample(range(len(of_name)), whole + 1)))
        if len(word) > fewest:
            begun = word[: drawing.draw.randint(fewest, min(most, len(word) - 1))]
            right = drawing.fitting_so_far(before, begun)
            if len(right) <= PAGE:
                return " ".join([*before, begun]), right
    return None


def _misspelt_so_far(change: Callable[[random.Random, str, int], str]) -> Rule:
    """A rule: one or two words, the last one incomplete and with a typo; at least four of its letters are typed, and
    they are not a prefix of the word."""

    def rule(drawing: Drawing, product: Json) -> Drawn:
        meant, right = _so_far(drawing, product, drawing.draw.choice((0, 1)), 4, 99) or ("", set())
        *before, begun = meant.split() or [""]
        if not begun.isalpha():
            return None
        wrong = change(drawing.draw, begun, drawing.draw.randrange(len(begun)))
        if len(wrong) < 4 or begun.startswith(wrong) or wrong == begun:
            return None
        return " ".join([*before, wrong]), right

    return rule


def _colour_or_size(drawing: Drawing, product: Json) -> Drawn:
    """A colour or size of the product or a variant, with another word of its name."""
    choices = [product["attrs"], *(variant["attrs"] for variant in product["variants"])]
    values = sorted({str(attrs[key]).lower() for attrs in choices for key in ("color", "size") if key in attrs})
    nouns = [word for word in _words(product["name"]) if len(word) > 3 and word.isalpha() and word not in values]
    if not values or not nouns:
        return None
    value, noun = drawing.draw.choice(values), drawing.draw.choice(nouns)
    return f"{value} {noun}", {one["sku"] for one in drawing.shelf if noun in _words(one["name"]) and _has(one, value)}


def _has(product: Json, value: str) -> bool:
    choices = [product["attrs"], *(variant["attrs"] for variant in product["variants"])]
    said = {str(attrs.get(key)).lower() for attrs in choices for key in ("color", "size")}
    return value in said or value in _words(product["name"])


def _brand_and_category(drawing: Drawing, product: Json) -> Drawn:
    """A brand with one of its categories: every product of both is right."""
    if not product["brand"]:
        return None
    both = {one["sku"] for one in drawing.shelf if _shelf_of(one) == _shelf_of(product)}
    return f"{product['brand']} {product['category'].replace('-', ' ')}", both


def _shelf_of(product: Json) -> tuple[str | None, str]:
    return product["brand"], product["category"]


KINDS: dict[str, Rule] = {
    "all words": _all_words,
    "two or three words": _some_words,
    "word order turned": _turned,
    "plural or singular": _other_number,
    "one letter dropped": _misspelt(_dropped),
    "one letter doubled": _misspelt(_doubled),
    "two letters swapped": _misspelt(_swapped),
    "one letter replaced": _misspelt(_replaced),
    "beginning of a word": _begun,
    "colour or size with a noun": _colour_or_size,
    "brand with a category": _brand_and_category,
}
# Typeahead, which is requested with every letter. A prefix of one to three letters seldom matches at most ten names;
# only those that do count.
SUGGESTED: dict[str, Rule] = {
    "one to three letters": _typed_so_far(0, 1, 3),
    "four letters or more": _typed_so_far(0, 4),
    "a word, and the next begun": _typed_so_far(1, 1),
    "begun, a letter dropped": _misspelt_so_far(_dropped),
    "begun, a letter doubled": _misspelt_so_far(_doubled),
    "begun, two letters swapped": _misspelt_so_far(_swapped),
    "begun, a letter replaced": _misspelt_so_far(_replaced),
}
# The least share of queries with a right product among the first ten, by kind.
_MISSPELT = re.compile("dropped|doubled|swapped|replaced")
GOALS = {kind: 0.90 if _MISSPELT.search(kind) else 0.98 if kind in KINDS else 0.95 for kind in (*KINDS, *SUGGESTED)}
GOALS["beginning of a word"] = 0.95


# --- Engines --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def node_of(name: str) -> AsyncIterator[tuple[SearchEngine, int]]:
    """Runs a local engine (`opensearch`, `elasticsearch` or `osmem`); yields its client and process id."""
    with TemporaryDirectory(prefix="quartet-bench-") as folder:
        running = await local_search.start(Place(Path(folder)), name)
        engine = SearchEngine(running.server.url)
        try:
            yield engine, running.child.pid
        finally:
            await engine.close()
            await running.stop()


Ask = Callable[[str], Awaitable[list[str]]]


async def ours(engine: SearchEngine, shelf: Sequence[Json], settings: Settings | None = None) -> Ask:
    """Searches by the shop's index and query: the SKUs of the first ten."""
    settings = settings or _settings()
    await _indexed(engine, shelf, settings)

    async def ask(text: str) -> list[str]:
        found = await search.find(engine, settings, Wanted(q=text, size=PAGE), NOW)
        return [hit["_source"]["sku"] for hit in found.hits]

    return ask


async def suggestions(engine: SearchEngine, shelf: Sequence[Json]) -> Ask:
    """Typeahead by the shop's index and query: the SKUs of the first ten."""
    settings = _settings()
    await _indexed(engine, shelf, settings)
    by_slug = {product["slug"]: product["sku"] for product in shelf}

    async def ask(text: str) -> list[str]:
        offered, _ = await search.suggest(engine, settings, text, PAGE, NOW)
        return [by_slug[one["slug"]] for one in offered]

    return ask


def _settings() -> Settings:
    return Settings(_env_file=None, search_alias=f"ours{uuid4().hex[:8]}")


async def _indexed(engine: SearchEngine, shelf: Sequence[Json], settings: Settings) -> None:
    await search.prepare(engine, settings)
    for start in range(0, len(shelf), 1000):
        documents = {p["_id"]: search.document(p) for p in shelf[start : start + 1000]}
        results = await search.put(engine, settings.search_alias, 1, documents)
        assert all(result.accepted for result in results)
    await engine.refresh(settings.search_alias)


async def briefs(engine: SearchEngine, shelf: Sequence[Json], alias: str = "") -> Ask:
    """Searches by the brief's index and query: the SKUs of the first ten."""
    alias = alias or f"brief{uuid4().hex[:8]}"
    await engine.create_index(f"{alias}-1", BRIEF_INDEX, aliases=[alias])
    for start in range(0, len(shelf), 1000):
        actions: list[tuple[Json, Json | None]] = [
            ({"index": {"_id": p["_id"]}}, brief_document(p)) for p in shelf[start : start + 1000]
        ]
        assert all(result.accepted for result in await engine.bulk(alias, actions))
    await engine.refresh(alias)

    async def ask(text: str) -> list[str]:
        found = await engine.search(alias, brief_query(text, size=PAGE))
        return [hit["_source"]["sku"] for hit in found["hits"]["hits"]]

    return ask


BRIEF_INDEX: Json = {
    "mappings": {
        "properties": {
            "sku": {"type": "keyword"},
            "name": {"type": "text", "analyzer": "english", "fields": {"raw": {"type": "keyword"}}},
            "category": {"type": "keyword"},
            "brand": {"type": "keyword"},
            "description": {"type": "text", "analyzer": "english"},
            "tags": {"type": "keyword"},
            "priceCents": {"type": "integer"},
            "rating": {"type": "float"},
            "attrs": {"type": "object", "dynamic": True},
        }
    },
    "settings": {"number_of_shards": 1, "number_of_replicas": 0},
}


def brief_document(product: Json) -> Json:
    """The document as the brief's indexing loop writes it."""
    plain = ("sku", "name", "category", "brand", "description", "tags", "priceCents", "attrs")
    return {key: product[key] for key in plain} | {"rating": product["ratings"]["avg"]}


def brief_query(text: str, *, size: int = 20) -> Json:
    """The query of the brief's `search_products`, by relevance (its double sort on `_score` is the engines' default
    order)."""
    return {
        "from": 0,
        "size": size,
        "query": {
            "bool": {
                "must": [
                    {
                        "multi_match": {
                            "query": text,
                            "fields": ["name^3", "brand^2", "description", "tags"],
                            "fuzziness": "AUTO",
                        }
                    }
                ],
                "filter": [],
            }
        },
        "sort": [{"_score": "desc"}],
        "aggs": {
            "by_category": {"terms": {"field": "category", "size": 20}},
            "by_brand": {"terms": {"field": "brand", "size": 20}},
            "price_range": {
                "range": {
                    "field": "priceCents",
                    "ranges": [
                        {"key": "Under $50", "to": 5000},
                        {"key": "$50–$200", "from": 5000, "to": 20000},
                        {"key": "$200–$500", "from": 20000, "to": 50000},
                        {"key": "Over $500", "from": 50000},
                    ],
                }
            },
        },
        "highlight": {"fields": {"name": {}, "description": {"fragment_size": 150}}},
        "suggest": {"did_you_mean": {"text": text, "phrase": {"field": "name", "size": 3}}},
    }


# --- Figures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """For queries of one kind: the share with a right first hit, the share with a right one among the first ten, and
    the mean reciprocal rank of the first right one (0 if there is none)."""

    queries: int
    first: float
    ten: float
    mrr: float


def score(ranks: Sequence[int | None]) -> Score:
    """The score from the ranks of the first right hits, from 1; None if there is none among the first ten."""
    found = [rank for rank in ranks if rank is not None]
    count = len(ranks) or 1
    return Score(
        len(ranks), sum(rank == 1 for rank in found) / count, len(found) / count, sum(1 / r for r in found) / count
    )


async def measured(ask: Ask, queries: Sequence[Query]) -> dict[str, Score]:
    """Asks all queries; returns the scores by kind."""
    ranks: dict[str, list[int | None]] = {kind: [] for kind in GOALS}
    left = iter(queries)

    async def asker() -> None:
        for query in left:
            found = await ask(query.text)
            rank = next((n for n, sku in enumerate(found, start=1) if sku in query.right), None)
            ranks[query.kind].append(rank)

    await asyncio.gather(*(asker() for _ in range(4)))
    return {kind: score(found) for kind, found in ranks.items() if found}


async def relevance(which: Half = "report") -> str:
    """The tables, as Markdown."""
    shelf = await asyncio.to_thread(products)
    searches, beginnings = (
        [query for query in Drawing(shelf).queries(kinds) if query.half == which] for kinds in (KINDS, SUGGESTED)
    )
    async with node_of("opensearch") as (engine, _):
        theirs = await measured(await briefs(engine, shelf), searches)
        mine = await measured(await ours(engine, shelf), searches)
        offered = await measured(await suggestions(engine, shelf), beginnings)
        version = await engine.ping()
    lines = [
        f"{len(shelf)} products, {version}, seed {SEED}, the half for {which}.\n",
        "| kind of query | queries | success at 1: brief | ours | at 10: brief | ours | MRR: brief | ours |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, found in mine.items():
        other = theirs[kind]
        pairs = ((other.first, found.first), (other.ten, found.ten), (other.mrr, found.mrr))
        lines.append(f"| {kind} | {found.queries} | " + " | ".join(f"{a:.3f} | {b:.3f}" for a, b in pairs) + " |")
    lines += ["", "| what is typed so far | queries | success at 1 | at 10 | MRR |", "|---|---:|---:|---:|---:|"]
    for kind, found in offered.items():
        lines.append(f"| {kind} | {found.queries} | {found.first:.3f} | {found.ten:.3f} | {found.mrr:.3f} |")
    return "\n".join(lines)
