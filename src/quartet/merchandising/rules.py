"""The search settings, cached in every process' memory: updated within half a second of a change.

Searches read only this memory; two or three times a second one search per process also checks a stamp in PostgreSQL.
While PostgreSQL is slow or down, searches go on with the cached settings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic

from quartet import catalog
from quartet.kernel.errors import StoreUnavailable
from quartet.kernel.looks import PeriodicCheck
from quartet.merchandising import store, typeahead
from quartet.merchandising.model import Ranking, Rule, Ruling, Synonyms, normalised, phrase, products_of
from quartet.merchandising.typeahead import TypeaheadIndex
from quartet.web.dependencies import Shop

CHECK_SECONDS = 0.4
# The pause after a failed check.
RETRY_SECONDS = 2.0
# The interval for what changes without a new stamp: frequent queries, and which product a SKU names.
UNSTAMPED_SECONDS = 60.0
# Sales of months hardly change in this time, and adding them up takes long in a shop with many.
SALES_SECONDS = 600.0
MOST_SALES = 2_000
MOST_ALTERNATIVES = 8
_LONGEST_PHRASE = 4

Phrase = tuple[str, ...]


@dataclass(frozen=True)
class SearchSettings:
    """All search settings, indexed for look-ups."""

    stamp: int = 0
    synonyms: Mapping[Phrase, Sequence[Phrase]] = field(default_factory=dict)
    rules: Mapping[Phrase, Rule] = field(default_factory=dict)
    sales: Sequence[tuple[str, str, int]] = ()
    boosts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)
    category_offers: TypeaheadIndex = field(default_factory=TypeaheadIndex)
    past: Sequence[tuple[str, int]] = ()
    query_offers: TypeaheadIndex = field(default_factory=TypeaheadIndex)

    def of(self, text: str) -> Ruling:
        """The settings for a query."""
        query = normalised(text)
        words = tuple(query.split())
        if not words:
            return Ruling()
        rule = rule_of(words, self.rules)
        return Ruling(
            alternatives=tuple(alternatives(query, self.synonyms)) if self.synonyms else (),
            pinned=rule.pinned_ids if rule else (),
            hidden=rule.hidden_ids if rule else (),
            boosts=self.boosts.get(query, {}),
        )


def alternatives(query: str, synonyms: Mapping[Phrase, Sequence[Phrase]]) -> list[str]:
    """The query with synonyms put in, those with the fewest replacements first."""
    found = [tuple(query.split())]
    for words in found:  # grows while it is walked
        for start in range(len(words)):
            for end in range(start + 1, min(start + _LONGEST_PHRASE, len(words)) + 1):
                for other in synonyms.get(phrase(words[start:end]), ()):
                    changed = (*words[:start], *other, *words[end:])
                    if changed not in found and len(found) <= MOST_ALTERNATIVES:
                        found.append(changed)
    return [" ".join(words) for words in found[1:]]


def rule_of(words: Phrase, rules: Mapping[Phrase, Rule]) -> Rule | None:
    """The rule for exactly these words, else for their singular or plural."""
    return rules.get(words) or rules.get(phrase(words))


def rules_by_phrase(held: Iterable[Rule]) -> dict[Phrase, Rule]:
    """Rules by exact words and by their singular; an exact rule takes precedence, then the latest."""
    ordered = [(tuple(normalised(rule.query).split()), rule) for rule in sorted(held, key=lambda one: one.updated_at)]
    return {phrase(words): rule for words, rule in ordered} | dict(ordered)


def synonyms_by_phrase(held: Iterable[Synonyms]) -> dict[Phrase, list[Phrase]]:
    """Synonyms by the singular of the words typed."""
    found: dict[Phrase, list[Phrase]] = {}
    for each in held:
        for typed in each.words:
            own = tuple(normalised(typed).split())
            others = found.setdefault(phrase(own), [])
            means = [tuple(normalised(text).split()) for text in each.means or each.words]
            others += [other for other in dict.fromkeys(means) if other and other not in others and other != own]
    return found


def boosts(
    sales: Iterable[tuple[str, str, int]], product_ids: Mapping[str, str], most: float
) -> dict[str, dict[str, float]]:
    """Factors by query and product: 1 + `most` for the product that sells best for the query, others in proportion."""
    units: dict[str, dict[str, int]] = {}
    for query, sku, sold in sales:
        if (product_id := product_ids.get(sku)) is not None:
            of_query = units.setdefault(normalised(query), {})
            of_query[product_id] = of_query.get(product_id, 0) + sold
    return {
        query: {id_: round(1 + most * sold / max(of_query.values()), 4) for id_, sold in of_query.items()}
        for query, of_query in units.items()
    }


class SearchSettingsCache:
    """The cache of one process."""

    def __init__(self) -> None:
        self.settings = SearchSettings()
        self.stamp_check = PeriodicCheck("what staff say of queries", CHECK_SECONDS, RETRY_SECONDS)
        self._unstamped_at = self._sales_at = float("-inf")

    async def current(self, shop: Shop) -> SearchSettings:
        """The settings, at most `CHECK_SECONDS` old unless PostgreSQL is slow or down."""
        await self.stamp_check.check(partial(self._renew, shop))
        return self.settings

    def is_recent(self, shop: Shop) -> bool:
        """Whether no check is due. Starts one ahead of time, so that with steady traffic no search waits for it."""
        return self.stamp_check.is_recent(lambda: self._renew(shop))

    async def _renew(self, shop: Shop) -> None:
        began = monotonic()
        async with shop.stores.pg.read() as read:
            stamp = await store.stamp(read)
            is_anew = stamp != self.settings.stamp
            if is_anew:
                # In effect before sales are added up, which may take long, or even time out.
                rules = rules_by_phrase(await store.all_rules(read))
                synonyms = synonyms_by_phrase(await store.all_synonyms(read))
                self.settings = replace(
                    self.settings,
                    stamp=stamp,
                    synonyms=synonyms,
                    rules=rules,
                    query_offers=_offered(self.settings.past, rules),
                )
        if is_anew or began - self._unstamped_at >= UNSTAMPED_SECONDS:
            self._unstamped_at = began
            if add_up := is_anew or began - self._sales_at >= SALES_SECONDS:
                self._sales_at = began
            self.settings = await _with_unstamped(shop, self.settings, add_up=add_up)


async def _with_unstamped(shop: Shop, before: SearchSettings, *, add_up: bool) -> SearchSettings:
    """Renews what changes without a new stamp: frequent queries, categories, boosts by sales; `add_up`: with the sales
    added up again."""
    async with shop.stores.pg.read() as read:
        past = await store.past_queries(read)
        ranking, sales = await store.ranking(read), before.sales
        if add_up:
            sales = await store.best_of_queries(read, shop.clock.now(), ranking, MOST_SALES)
    categories, rules = await _categories(shop, before), await _with_product_ids(shop, before.rules)
    return replace(
        before, rules=rules, sales=sales, boosts=await _boosts(shop, sales, ranking, before), categories=categories,
        category_offers=typeahead.of_categories(categories), past=past, query_offers=_offered(past, rules),
    )  # fmt: skip


def _offered(past: Iterable[tuple[str, int]], rules: Mapping[Phrase, Rule]) -> TypeaheadIndex:
    return typeahead.of_queries((shown, count) for shown, count in past if _may_be_offered(shown, rules))


async def _with_product_ids(shop: Shop, rules: Mapping[Phrase, Rule]) -> Mapping[Phrase, Rule]:
    """The rules with the product ids that their SKUs name now, since a product may have been recreated, or a variant
    moved to another product. While MongoDB is down, the rules as they are."""
    skus = {sku for rule in rules.values() for sku in (*rule.pinned, *rule.hidden)}
    try:
        ids = await catalog.product_ids_of_skus(shop.stores.mongo, skus)
    except StoreUnavailable:
        return rules
    return {
        phrase: replace(rule, pinned_ids=products_of(rule.pinned, ids), hidden_ids=products_of(rule.hidden, ids))
        for phrase, rule in rules.items()
    }


def _may_be_offered(text: str, rules: Mapping[Phrase, Rule]) -> bool:
    rule = rule_of(tuple(normalised(text).split()), rules)
    return rule is None or rule.offered


async def _categories(shop: Shop, before: SearchSettings) -> Mapping[str, str]:
    try:
        return {category.slug: category.name for category in await catalog.categories(shop.stores.mongo)}
    except StoreUnavailable:
        return before.categories


async def _boosts(
    shop: Shop, sales: Sequence[tuple[str, str, int]], ranking: Ranking, before: SearchSettings
) -> Mapping[str, Mapping[str, float]]:
    if not sales or not ranking.most_boost:
        return {}
    try:
        product_ids = await catalog.product_ids_of_skus(shop.stores.mongo, {sku for _, sku, _ in sales})
    except StoreUnavailable:
        return before.boosts
    return boosts(sales, product_ids, ranking.most_boost)


async def ruling(shop: Shop, text: str) -> Ruling:
    """The current settings for a query: synonyms and rules by staff, and boosts by sales."""
    return (await shop.stores.singleton(SearchSettingsCache).current(shop)).of(text)


def recent_stamp(shop: Shop) -> int | None:
    """A number that changes with every change of the settings; None if a check is due. For cache keys: an answer cached
    under it is not used any more once the settings have changed."""
    settings_cache = shop.stores.singleton(SearchSettingsCache)
    return settings_cache.settings.stamp if settings_cache.is_recent(shop) else None


async def offers(shop: Shop, typed: str, limit: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Typeahead: categories, (name, slug) each, and past queries for the text typed so far."""
    settings = await shop.stores.singleton(SearchSettingsCache).current(shop)
    slugs = settings.category_offers.starting_with(typed, limit)
    return [(settings.categories[slug], slug) for slug in slugs], settings.query_offers.starting_with(typed, limit)
