"""Why somebody cannot be forgotten just now."""

from quartet.kernel.errors import Conflict


class OrdersOpen(Conflict):
    """A payment or a refund of yours is under way, or money is held for you: the provider's answer must still find you.
    Wait until it is settled, or cancel the order, then delete the account."""

    slug, title = "orders-open", "A payment or refund is under way"
