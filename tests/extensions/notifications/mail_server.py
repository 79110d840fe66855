"""A mail server for tests: ESMTP with STARTTLS and AUTH PLAIN, in a thread."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from threading import Event, Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER, PASSWORD = "ecolink", "correct horse"
DROP = "drop"
"""Instead of a response: the server closes the connection."""


@dataclass
class MailServer:
    """The accepted mails in order, and responses that a test chooses."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    responses: dict[str, str] = field(default_factory=dict)
    """Responses by command, such as `RCPT`, instead of the usual ones. `.` is that to a mail."""
    certificate: Path | None = None
    """File with a certificate and its key. With it, the server requires STARTTLS and a login."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._converse(reader, writer)
        writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        encrypted = trusted = self.certificate is None
        recipient = ""
        writer.write(b"220 test ESMTP\r\n")
        while line := (await reader.readline()).decode().strip():
            verb = line.split()[0].upper()
            reply = "250 OK"
            match verb:
                case "EHLO":
                    offered = "AUTH PLAIN" if encrypted else "STARTTLS"
                    reply = f"250-test\r\n250 {offered}" if self.certificate else "250 test"
                case "STARTTLS":
                    writer.write(b"220 go ahead\r\n")
                    await writer.start_tls(self._context())
                    encrypted = True
                    continue
                case "AUTH":
                    given = base64.b64decode(line.split()[2]).decode()
                    trusted = encrypted and given == f"\0{USER}\0{PASSWORD}"
                    reply = "235 OK" if trusted else "535 wrong password"
                case "MAIL" if not trusted:
                    reply = "530 log in first"
                case "RCPT":
                    recipient = line.partition("<")[2].partition(">")[0]
                case "DATA":
                    reply = "354 go on"
                case "QUIT":
                    reply = "221 bye"
            reply = self.responses.get(verb, reply)
            if reply == DROP:
                return
            writer.write(f"{reply}\r\n".encode())
            if reply.startswith("354"):
                content = await reader.readuntil(b"\r\n.\r\n")
                reply = self.responses.get(".", "250 queued")
                if reply.startswith("250") or reply == DROP:
                    mail = message_from_bytes(_unquoted(content), policy=policy.default)
                    assert isinstance(mail, EmailMessage)
                    self.mails.append(mail)
                    self.recipients.append(recipient)
                if reply == DROP:
                    return
                writer.write(f"{reply}\r\n".encode())

    def _context(self) -> ssl.SSLContext:
        assert self.certificate is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return context


def _unquoted(content: bytes) -> bytes:
    """Return a mail without its end and the periods that SMTP adds (RFC 5321, 4.5.2)."""
    return content[:-3].replace(b"\r\n..", b"\r\n.").replace(b"\r\n", b"\n")


@contextmanager
def mail_server(certificate: Path | None = None) -> Iterator[MailServer]:
    """Run a mail server during the block."""
    server, started, loop = MailServer(certificate=certificate), Event(), asyncio.new_event_loop()

    async def listen() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.port = listening.sockets[0].getsockname()[1]
        started.set()
        async with listening:
            await listening.serve_forever()

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    task = loop.create_task(listen())
    thread = Thread(target=run)
    thread.start()
    started.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


def make_certificate(folder: Path) -> Path:
    """Write a certificate of `localhost` with its key to a file, which is also its own root."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.NameAttribute
    subject = x509.Name([name(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "mail-server.pem"
    file.write_bytes(private + certificate.public_bytes(pem))
    return file
