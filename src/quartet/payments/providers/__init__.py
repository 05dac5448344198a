"""The payment providers: one file each, all behind `PaymentProvider`."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from quartet.kernel.settings import Settings
from quartet.payments.providers.paypal import PayPal
from quartet.payments.providers.port import PaymentProvider
from quartet.payments.providers.sandbox import Sandbox
from quartet.stores.postgres import Postgres

Providers = Mapping[str, PaymentProvider]


def _stripe(settings: Settings, _pg: Postgres) -> PaymentProvider:
    from quartet.payments.providers.stripe import Stripe  # the import takes a quarter of a second

    return Stripe(settings)


_KNOWN: Mapping[str, Callable[[Settings, Postgres], PaymentProvider]] = {
    "sandbox": Sandbox,
    "stripe": _stripe,
    "paypal": lambda settings, _pg: PayPal(settings),
}
# The settings that each requires.
_NEEDED = {
    "stripe": ("stripe_secret_key", "stripe_webhook_secrets"),
    "paypal": ("paypal_client_id", "paypal_client_secret", "paypal_webhook_id"),
}


def open_providers(settings: Settings, pg: Postgres) -> Providers:
    """The providers that `settings.payment_providers` turns on, by name. Raises ValueError as `check_providers`."""
    check_providers(settings)
    return {name: _KNOWN[name](settings, pg) for name in settings.payment_providers}


@asynccontextmanager
async def opened_providers(settings: Settings, pg: Postgres) -> AsyncIterator[Providers]:
    """The same, closed at the end."""
    async with AsyncExitStack() as closing:
        providers = open_providers(settings, pg)
        for provider in providers.values():
            closing.push_async_callback(provider.close)
        yield providers


def check_providers(settings: Settings) -> None:
    """Raises ValueError that names every unknown provider, or every missing setting."""
    unknown = [name for name in settings.payment_providers if name not in _KNOWN]
    if unknown:
        raise ValueError(f"no such payment provider: {', '.join(unknown)}; there are {', '.join(_KNOWN)}")
    missing = [
        f"the payment provider {name} is on, but QUARTET_{setting.upper()} is not set"
        for name in settings.payment_providers
        for setting in _NEEDED.get(name, ())
        if not getattr(settings, setting)
    ]
    if missing:
        raise ValueError("; ".join(missing))
