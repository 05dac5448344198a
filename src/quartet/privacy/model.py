"""Why a person's data can't be erased at the moment."""

from quartet.kernel.errors import Conflict


class OrdersOpen(Conflict):
    """A payment or refund of yours is in progress, or a payment is only authorized. Wait until it is
    completed, or cancel the order, then delete the account."""

    slug, title = "orders-open", "A payment or refund is under way"
