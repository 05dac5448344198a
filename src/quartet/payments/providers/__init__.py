"""The companies that move the money: one file each, all behind `PaymentProvider`."""

from collections.abc import Mapping

from quartet.kernel.settings import Settings
from quartet.payments.providers.port import PaymentProvider
from quartet.payments.providers.sandbox import Sandbox
from quartet.stores.postgres import Postgres

Providers = Mapping[str, PaymentProvider]


def open_providers(settings: Settings, pg: Postgres) -> Providers:
    """The providers that `settings.payment_providers` turns on, by name. ValueError names one that there is not."""
    known = {"sandbox": Sandbox}
    unknown = [name for name in settings.payment_providers if name not in known]
    if unknown:
        raise ValueError(f"no such payment provider: {', '.join(unknown)}; there are {', '.join(known)}")
    return {name: known[name](settings, pg) for name in settings.payment_providers}
