"""What still works while a store is away, in a sentence; docs/operations.md has all of it as a table."""

MEANWHILE = {
    "postgres": "products, lists, categories and search stay up; nothing is bought, and nobody signs in",
    "mongodb": "product pages that are cached are shown with their age, search stays up, carts are priced by "
    "inventory, and what is in stock is bought and paid",
    "redis": "products come from MongoDB, each process limits by itself, strictly who signs in and pays, carts and "
    "leaderboards are closed, and orders that name their items are placed and paid",
    "search": "categories, brands and beginnings of names are listed from MongoDB, marked degraded, and all but other "
    "searches works",
}
