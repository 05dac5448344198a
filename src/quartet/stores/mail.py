"""Sending mail: to the console, or by SMTP."""

import re
import sys
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import aiosmtplib

from quartet.stores.breakers import register
from quartet.stores.guard import Guard

SECONDS = 20
# Long, since some servers delay their greeting on purpose, to expose clients that do not wait for it.
DOUBT_SECONDS = 10
# Between two probes. A server that rejects us for connecting too often counts the probes too.
REST_SECONDS = 10
_PLACES = 100


class MailRefused(OSError):
    """The mail server permanently refuses this e-mail (5xx for the recipient or the message)."""


class Mailer(Protocol):
    """Sends one e-mail, as text and perhaps as HTML too."""

    @property
    def is_away(self) -> bool:
        """Whether the mail server is down; then nothing is sent to it."""
        ...

    async def send(self, to: str, subject: str, text: str, *, html: str = "", message_id: str = "") -> None:
        """Returns when the mail server has accepted it. Raises MailRefused; OSError if the outcome is unknown: the
        e-mail may have been accepted, so retry with the same `message_id` (`<…@…>`); StoreUnavailable if the server is
        down and nothing was sent."""
        ...


class ConsoleMailer:
    """Prints e-mails to standard error, for development."""

    is_away = False

    async def send(self, to: str, subject: str, text: str, **_for_mailboxes: str) -> None:
        sys.stderr.write(f"--- e-mail to {to}: {subject}\n{text}\n---\n")


class SmtpMailer:
    """Sends by an SMTP server, with STARTTLS if the server offers it; `smtps://` uses TLS from the start."""

    def __init__(self, url: str, sender: str) -> None:
        self._url = urlsplit(url)
        self._sender = sender
        self.guard = register(
            Guard(
                "mail", self._probe, (OSError,), doubt=DOUBT_SECONDS, patience=SECONDS, places=_PLACES,
                rest=REST_SECONDS,
            )
        )  # fmt: skip

    @property
    def is_away(self) -> bool:
        return self.guard.is_open

    async def _probe(self) -> None:
        """Waits for the server's greeting."""
        async with aiosmtplib.SMTP(**self._server):
            pass

    @property
    def _server(self) -> dict[str, Any]:
        return {
            "hostname": self._url.hostname, "port": self._url.port, "use_tls": self._url.scheme == "smtps",
            "timeout": SECONDS,
        }  # fmt: skip

    async def send(self, to: str, subject: str, text: str, *, html: str = "", message_id: str = "") -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, to, subject
        message["Date"] = formatdate()
        message["Auto-Submitted"] = "auto-generated"  # prevents out-of-office replies (RFC 3834)
        if message_id:
            message["Message-ID"] = message_id
        message.set_content(text)
        if html:
            message.add_alternative(html, subtype="html")
        try:
            with self.guard.call():
                await aiosmtplib.send(
                    message,
                    username=unquote(self._url.username) if self._url.username else None,
                    password=unquote(self._url.password) if self._url.password else None,
                    **self._server,
                )
        except (aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPDataError) as error:
            kind = MailRefused if all(code >= 500 for code in _codes(error)) else OSError
            raise kind(f"the mail server refused it: {_nameless(error)}") from error
        except (aiosmtplib.SMTPException, TimeoutError) as error:
            raise OSError(f"the mail server did not take it: {_nameless(error)}") from error


def _nameless(error: Exception) -> str:
    """The error without e-mail addresses: it is logged, and logs are not covered by the erasure of a person."""
    return re.sub(r"[^\s<'\"(]+@[^\s>'\"),;]+", "…", repr(error))


def _codes(error: aiosmtplib.SMTPRecipientsRefused | aiosmtplib.SMTPDataError) -> list[int]:
    if isinstance(error, aiosmtplib.SMTPDataError):
        return [error.code]
    return [refused.code for refused in error.recipients]


def mailer(url: str, sender: str) -> Mailer:
    """`console:` or smtp(s)://user:password@host:port."""
    return ConsoleMailer() if url.startswith("console:") else SmtpMailer(url, sender)
