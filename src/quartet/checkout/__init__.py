"""The purchase: place, pay, cancel, refund, and recovery of what was left open. Owns no store; coordinates other
packages.

`api` calls one file per subject: `placing`, `paying`, `captures`, `refunds`, `webhooks`. Payment providers are always
called between two transactions: the first, in these files, records what is about to happen; the second, in
`completion`, what did; a crash between them is repaired by `recovery`. The states of a payment and their transitions
are a table in docs/payments.md, *The circle of money*."""

from quartet.checkout.recovery import recover

__all__ = ["recover"]
