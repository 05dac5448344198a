"""The mail port over a real SMTP conversation: taken, refused, put off, cut."""

import asyncio
import email
import email.policy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage

import pytest

from quartet.kernel.errors import StoreUnavailable
from quartet.stores.mail import ConsoleMailer, MailRefused, SmtpMailer, mailer


@dataclass
class Sink:
    """An SMTP server that keeps what it takes. `answers` says otherwise to a command; `cut_after` hangs up at one."""

    answers: dict[str, str] = field(default_factory=dict)
    cut_after: str = ""
    port: int = 0
    taken: list[bytes] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        await say(self.answers.get("CONNECT", "220 sink"))
        while line := (await reader.readline()).decode().strip():
            self.said.append(line)
            verb = line.split()[0].upper()
            if verb == "DATA" and verb not in self.answers:
                await say("354 go on")
                text = await reader.readuntil(b"\r\n.\r\n")
                self.taken.append(text[:-5].replace(b"\r\n..", b"\r\n."))
                verb = "END"
            if verb == self.cut_after:
                writer.transport.abort()
                return
            await say(self.answers.get(verb, "250 sink" if verb != "QUIT" else "221 bye"))
        writer.close()

    @property
    def message(self) -> EmailMessage:
        found = email.message_from_bytes(self.taken[-1], policy=email.policy.default)
        assert isinstance(found, EmailMessage)
        return found


@asynccontextmanager
async def listening(sink: Sink) -> AsyncIterator[SmtpMailer]:
    server = await asyncio.start_server(sink.serve, "127.0.0.1", 0)
    sink.port = server.sockets[0].getsockname()[1]
    try:
        yield SmtpMailer(f"smtp://127.0.0.1:{sink.port}", "shop@example.com")
    finally:
        server.close()


async def _send(to: SmtpMailer, **more: str) -> None:
    await to.send("ada@example.com", "Déjà vu", "Hello.\n.dotted line\n", **more)


async def test_text_and_html_leave_as_one_message_with_the_id_given() -> None:
    sink = Sink()
    async with listening(sink) as smtp:
        await _send(smtp, html="<p>Hello.</p>", message_id="<1.reset@shop.example>")
    message = sink.message
    assert (message["From"], message["To"], message["Subject"]) == ("shop@example.com", "ada@example.com", "Déjà vu")
    assert message["Message-ID"] == "<1.reset@shop.example>"
    assert message["Date"]
    assert message["Auto-Submitted"] == "auto-generated"
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().splitlines() == ["Hello.", ".dotted line"]
    assert html.get_content().strip() == "<p>Hello.</p>"
    assert any(line.startswith("RCPT TO:<ada@example.com>") for line in sink.said)


async def test_without_starttls_it_is_sent_all_the_same_and_plain_text_alone_is_one_part() -> None:
    sink = Sink()
    async with listening(sink) as smtp:
        await _send(smtp)
    assert not sink.message.is_multipart()
    assert "STARTTLS" not in sink.said


@pytest.mark.parametrize("verb", ["RCPT", "DATA", "END"])
async def test_what_is_refused_for_good_is_told_from_what_is_put_off(verb: str) -> None:
    async with listening(Sink({verb: "550 never"})) as smtp:
        with pytest.raises(MailRefused, match="never"):
            await _send(smtp)
    async with listening(Sink({verb: "451 later"})) as smtp:
        with pytest.raises(OSError, match="later") as put_off:
            await _send(smtp)
    assert not isinstance(put_off.value, MailRefused)


@pytest.mark.parametrize(("verb", "code"), [("CONNECT", "554 busy"), ("MAIL", "530 sign in"), ("EHLO", "421 closing")])
async def test_what_is_wrong_with_us_or_the_server_is_not_the_mails_fault(verb: str, code: str) -> None:
    answers = {verb: code, "HELO": code} if verb == "EHLO" else {verb: code}
    async with listening(Sink(answers)) as smtp:
        with pytest.raises(OSError) as failure:
            await _send(smtp)
    assert not isinstance(failure.value, MailRefused)


@pytest.mark.parametrize("verb", ["EHLO", "MAIL", "RCPT", "END"])
async def test_a_cut_is_unknown_even_when_the_message_was_taken(verb: str) -> None:
    sink = Sink(cut_after=verb)
    async with listening(sink) as smtp:
        with pytest.raises(OSError) as failure:
            await _send(smtp)
    assert not isinstance(failure.value, MailRefused)
    assert len(sink.taken) == (verb == "END")


async def test_a_server_that_is_away_is_an_error_of_the_network() -> None:
    with pytest.raises(OSError):
        await _send(SmtpMailer("smtp://127.0.0.1:1", "shop@example.com"))


async def _until(smtp: SmtpMailer, *, away: bool) -> None:
    async with asyncio.timeout(30):
        while smtp.is_away is not away:  # noqa: ASYNC110 — it comes true in the guard
            await asyncio.sleep(0.01)


async def test_while_the_server_is_away_nothing_is_sent_until_it_greets_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quartet.stores.mail.REST_SECONDS", 0.05)
    sink = Sink()
    async with listening(sink) as smtp:
        await _send(smtp)
    with pytest.raises(OSError):
        await _send(smtp)  # nobody listens any more
    await _until(smtp, away=True)
    for _ in range(3):
        with pytest.raises(StoreUnavailable) as refused:
            await _send(smtp)
        assert refused.value.store == "mail"
    assert len(sink.taken) == 1
    async with await asyncio.start_server(sink.serve, "127.0.0.1", sink.port):
        await _until(smtp, away=False)
        await _send(smtp)
    assert len(sink.taken) == 2
    assert (smtp.guard.openings, smtp.guard.refused["open"]) == (1, 3)
    smtp.guard.close()


async def test_a_server_that_greets_somebody_and_hangs_up_at_one_mail_is_not_away() -> None:
    async with listening(Sink(cut_after="END")) as smtp:
        for _ in range(3):
            with pytest.raises(OSError):
                await _send(smtp)
        async with asyncio.timeout(30):
            while smtp.guard.state != "closed":  # noqa: ASYNC110 — as above
                await asyncio.sleep(0.01)
        assert smtp.guard.openings == 0
        smtp.guard.close()


async def test_no_header_is_made_of_a_subject() -> None:
    async with listening(Sink()) as smtp:
        with pytest.raises(ValueError, match=r"newline|CR|linefeed"):
            await smtp.send("ada@example.com", "Hello\nBcc: all@example.com", "text")


def test_the_console_is_for_ones_own_machine() -> None:
    assert isinstance(mailer("console:", ""), ConsoleMailer)
    assert isinstance(mailer("smtp://mail.example:25", "a@example.com"), SmtpMailer)
