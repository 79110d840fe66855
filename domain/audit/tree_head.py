"""Signed heads of the event log's Merkle tree.

A head is a checkpoint of a transparency log, in the text format of c2sp.org/tlog-checkpoint, with
an Ed25519 signature as in c2sp.org/signed-note. Any tool for these formats can verify it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = b"\x01"
"""Signature type of a signed note."""

SIGNATURE_MARK = "\u2014"


class InvalidHead(Exception):
    """A head is malformed, or its signature is not of the expected key."""


@dataclass(frozen=True)
class TreeHead:
    """The root of the tree after some event of the log."""

    origin: str
    """Name of the log, which is also the name of its key. Without spaces and plus signs."""

    size: int
    """Number of events."""

    root: bytes
    last_event: int
    """Notification id of the last event, 0 for an empty log."""

    sealed_at: datetime

    @property
    def text(self) -> str:
        """Return the text that is signed. The last two lines are extensions of the format."""
        lines = (
            self.origin,
            str(self.size),
            base64.b64encode(self.root).decode(),
            f"event {self.last_event}",
            f"time {self.sealed_at.isoformat()}",
        )
        return "".join(f"{line}\n" for line in lines)

    def sign(self, key: Ed25519PrivateKey) -> str:
        """Return the head as a signed note."""
        return f"{self.text}\n{signature_line(self.origin, key, self.text)}\n"


@dataclass(frozen=True)
class LogKey:
    """The name of a log and the public key that signs its heads."""

    origin: str
    public: Ed25519PublicKey

    def __str__(self) -> str:
        """Return the verifier key in the format of c2sp.org/signed-note."""
        key_id = _key_id(self.origin, self.public).hex()
        encoded = base64.b64encode(ED25519 + self.public.public_bytes_raw()).decode()
        return f"{self.origin}+{key_id}+{encoded}"

    @classmethod
    def parse(cls, text: str) -> LogKey:
        """Return the key that `str` returned. Raise ValueError if the text is not such a key."""
        try:
            origin, key_id, encoded = text.strip().split("+", 2)
            content = base64.b64decode(encoded, validate=True)
            found = cls(origin, Ed25519PublicKey.from_public_bytes(content[1:]))
            if content[:1] != ED25519 or key_id != _key_id(origin, found.public).hex():
                raise ValueError("the parts do not belong together")
        except ValueError as error:
            raise ValueError(
                f"{text.strip()!r} is not a public key. Copy the line that `ecolink audit key` "
                "prints."
            ) from error
        return found

    def verify(self, note: str) -> TreeHead:
        """Return the head in a signed note. Raise InvalidHead if the key did not sign it."""
        text, found, signatures = note.partition("\n\n")
        text += "\n"
        for line in signatures.splitlines() if found else ():
            if self.has_signed(text, line):
                return _parse(text)
        raise InvalidHead(f"The head is not signed by the key of {self.origin}.")

    def has_signed(self, text: str, line: str) -> bool:
        """Return True if a line is this key's signature of a text, in its only spelling."""
        start = f"{SIGNATURE_MARK} {self.origin} "
        encoded = line.removeprefix(start)
        try:
            content = base64.b64decode(encoded, validate=True)
            self.public.verify(content[4:], text.encode())
        except (ValueError, InvalidSignature):
            return False
        is_canonical = line == start + base64.b64encode(content).decode()
        return is_canonical and content[:4] == _key_id(self.origin, self.public)


def signature_line(origin: str, key: Ed25519PrivateKey, text: str) -> str:
    """Return the line of a signed note that signs a text."""
    signature = _key_id(origin, key.public_key()) + key.sign(text.encode())
    return f"{SIGNATURE_MARK} {origin} {base64.b64encode(signature).decode()}"


def _parse(text: str) -> TreeHead:
    try:
        origin, size, root, event, time = text.splitlines()
        return TreeHead(
            origin=origin,
            size=int(size),
            root=base64.b64decode(root, validate=True),
            last_event=int(event.removeprefix("event ")),
            sealed_at=datetime.fromisoformat(time.removeprefix("time ")),
        )
    except ValueError as error:
        raise InvalidHead(f"The signed text is not a head: {text!r}.") from error


def _key_id(origin: str, key: Ed25519PublicKey) -> bytes:
    return sha256(origin.encode() + b"\n" + ED25519 + key.public_bytes_raw()).digest()[:4]
