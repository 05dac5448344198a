"""The mail port: the console, or SMTP."""

import sys
from email.message import EmailMessage
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aiosmtplib


class Mailer(Protocol):
    """Sends one plain-text e-mail."""

    async def send(self, to: str, subject: str, text: str) -> None:
        """Returns when the next hop has taken it; raises OSError when none did."""
        ...


class ConsoleMailer:
    """Prints e-mails, for a shop on one's own machine."""

    async def send(self, to: str, subject: str, text: str) -> None:
        sys.stderr.write(f"--- e-mail to {to}: {subject}\n{text}\n---\n")


class SmtpMailer:
    """Hands e-mails to an SMTP server, with STARTTLS where it offers it (`smtps://` from the start)."""

    def __init__(self, url: str, sender: str) -> None:
        self._url = urlsplit(url)
        self._sender = sender

    async def send(self, to: str, subject: str, text: str) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, to, subject
        message.set_content(text)
        try:
            await aiosmtplib.send(
                message,
                hostname=self._url.hostname,
                port=self._url.port,
                username=unquote(self._url.username) if self._url.username else None,
                password=unquote(self._url.password) if self._url.password else None,
                use_tls=self._url.scheme == "smtps",
                timeout=10,
            )
        except aiosmtplib.SMTPException as error:
            raise OSError(f"the mail server did not take it: {error}") from error


def mailer(url: str, sender: str) -> Mailer:
    """`console:` or smtp(s)://user:password@host:port."""
    return ConsoleMailer() if url.startswith("console:") else SmtpMailer(url, sender)
