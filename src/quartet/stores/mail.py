"""Sending mail: to the console, or by SMTP."""

import re
import sys
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import aiosmtplib

from quartet.stores.breakers import beside
from quartet.stores.guard import Guard

SECONDS = 20
# Some servers greet late, so as to see who can't wait.
DOUBT_SECONDS = 10
# Between two looks whether it greets again. One that turns us away because we come too often counts these too.
REST_SECONDS = 10
_PLACES = 100


class MailRefused(OSError):
    """The mail server will not take this e-mail now or ever (5xx to the recipient or the message)."""


class Mailer(Protocol):
    """Sends one e-mail, as text and perhaps as HTML too."""

    @property
    def is_away(self) -> bool:
        """The mail server does not answer, and nothing is sent to it."""
        ...

    async def send(self, to: str, subject: str, text: str, *, html: str = "", message_id: str = "") -> None:
        """Returns when the mail server has accepted it. Raises MailRefused, or OSError if it is not known to be
        accepted: it may have been all the same, and whoever sends it again gives the same `message_id` (`<…@…>`).
        Raises StoreUnavailable if it is down, and nothing was sent."""
        ...


class ConsoleMailer:
    """Prints e-mails, for a shop on one's own machine."""

    is_away = False

    async def send(self, to: str, subject: str, text: str, **_for_mailboxes: str) -> None:
        sys.stderr.write(f"--- e-mail to {to}: {subject}\n{text}\n---\n")


class SmtpMailer:
    """Hands e-mails to an SMTP server, with STARTTLS where it offers it (`smtps://` from the start)."""

    def __init__(self, url: str, sender: str) -> None:
        self._url = urlsplit(url)
        self._sender = sender
        self.guard = beside(
            Guard(
                "mail", self._probe, (OSError,), doubt=DOUBT_SECONDS, patience=SECONDS, places=_PLACES,
                rest=REST_SECONDS,
            )
        )  # fmt: skip

    @property
    def is_away(self) -> bool:
        return self.guard.is_open

    async def _probe(self) -> None:
        """Waits for its greeting."""
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
        message["Auto-Submitted"] = "auto-generated"  # so that no absence note comes back (RFC 3834)
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
    """What went wrong, without the mailbox's address: this goes into logs, from which nobody is erased."""
    return re.sub(r"[^\s<'\"(]+@[^\s>'\"),;]+", "…", repr(error))


def _codes(error: aiosmtplib.SMTPRecipientsRefused | aiosmtplib.SMTPDataError) -> list[int]:
    if isinstance(error, aiosmtplib.SMTPDataError):
        return [error.code]
    return [refused.code for refused in error.recipients]


def mailer(url: str, sender: str) -> Mailer:
    """`console:` or smtp(s)://user:password@host:port."""
    return ConsoleMailer() if url.startswith("console:") else SmtpMailer(url, sender)
