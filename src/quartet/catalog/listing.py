"""Lists of products: filters by category, brand, tag and any attribute, in one of a few orders, page by page."""

from collections import Counter
from collections.abc import Sequence

from quartet.catalog import store
from quartet.catalog.attributes import Condition, condition
from quartet.catalog.model import Document, descendants
from quartet.kernel.errors import invalid
from quartet.web.dependencies import Shop

# As in search, a dash turns the order round; the newest come first either way, which is what anybody means by it.
SORTS = {
    "-rating": ("ratings.avg", -1),
    "rating": ("ratings.avg", 1),
    "price": ("priceCents", 1),
    "-price": ("priceCents", -1),
    "newest": ("publishedMs", -1),
    "-newest": ("publishedMs", -1),
    "oldest": ("publishedMs", 1),
    "name": ("name", 1),
    "-name": ("name", -1),
}
DEFAULT_SORT = "-rating"
_FILTERS = ("category", "brand", "tag", "sort", "limit", "cursor")
_LONGEST = 200
_MOST_CONDITIONS = 10


async def list_products(
    shop: Shop, parameters: Sequence[tuple[str, str]], *, limit: int, cursor: str | None = None, drafts: bool = False
) -> tuple[list[Document], str | None]:
    """Documents of one page and the cursor of the next. `parameters` as they stand in the address:
    `category`, `brand`, `tag`, `sort`, `attrs.<name>[.gte|.lte|.gt|.lt]`. A category includes those below it.
    `drafts` shows also what is not published (which has no place among the newest and oldest).

    Raises Invalid naming the parameter, StoreUnavailable.
    """
    given = _checked(parameters)
    sort = given.get("sort", DEFAULT_SORT)
    if sort not in SORTS:
        raise invalid("sort", f"must be one of {', '.join(SORTS)}")
    asked = {name: text for name, text in given.items() if name.startswith("attrs.")}
    category = given.get("category")
    slugs = None if category is None else descendants(await store.parents(shop.stores.mongo), category)
    conditions, varying = await _conditions(shop, asked, slugs)
    where = store.filter_of(
        published_by=None if drafts else shop.clock.now(),
        categories=slugs,
        brand=given.get("brand"),
        tag=given.get("tag"),
        attributes=conditions,
        varying=varying,
    )
    after = None
    if cursor is not None:
        value, sku = shop.cursors.decode(cursor, f"products:{sort}")
        after = (value, sku)
    found = await store.page(shop.stores.mongo, where, sort=SORTS[sort], after=after, limit=limit + 1)
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    return found[:limit], shop.cursors.encode([_value(last, SORTS[sort][0]), last["sku"]], f"products:{sort}")


def _checked(parameters: Sequence[tuple[str, str]]) -> dict[str, str]:
    for name, times in Counter(name for name, _ in parameters).items():
        if name not in _FILTERS and not name.startswith("attrs."):
            raise invalid(name[:_LONGEST], f"is not a parameter here; there are {', '.join(_FILTERS)}, attrs.<name>")
        if times > 1:
            raise invalid(name, "is given twice")
    for name, text in parameters:
        if not 1 <= len(text) <= _LONGEST and name not in ("limit", "cursor"):
            raise invalid(name, f"must have 1 to {_LONGEST} characters")
    return dict(parameters)


async def _conditions(
    shop: Shop, asked: dict[str, str], slugs: list[str] | None
) -> tuple[list[Condition], frozenset[str]]:
    if not asked:
        return [], frozenset()
    if len(asked) > _MOST_CONDITIONS:
        raise invalid("attrs", f"at most {_MOST_CONDITIONS} attributes at once")
    categories = await store.categories(shop.stores.mongo, slugs)
    varying = frozenset().union(*(category.varying for category in categories))
    return [condition(name, text, categories) for name, text in asked.items()], varying


def _value(product: Document, field: str) -> object:
    found: object = product
    for part in field.split("."):
        found = found[part] if isinstance(found, dict) else None
    return found
