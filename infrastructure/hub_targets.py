"""Targets of pushes to a hub: the repository, and the token, encrypted for the exporter.

They are rows, not events, because the account holder wrote the name and because a token must be
deleted. The token is encrypted with the public key of the exporter that leads. Only that process
has the private key, in a file on its machine. The row forgets the token when the push ends.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from infrastructure.store import Connection

DDL = """
CREATE TABLE IF NOT EXISTS hub_targets (
    push_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    repository text NOT NULL,
    private boolean NOT NULL,
    token bytea,
    key_sha256 text NOT NULL,
    created_at timestamptz NOT NULL,
    done_bytes bigint NOT NULL DEFAULT 0,
    url text,
    message text
);
CREATE TABLE IF NOT EXISTS hub_keys (
    name text PRIMARY KEY,
    public_key bytea NOT NULL
)
"""

KEY_BITS = 3072
NAME = "exporter"
MOST_TOKEN_BYTES = KEY_BITS // 8 - 66
"""Longest text that a key can encrypt. Tokens of Hugging Face have 37 characters."""

OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


class NoKey(Exception):
    """No exporter has run yet, so there is no key to encrypt with."""


class Target(NamedTuple):
    """A repository, the encrypted token of its owner, and the hash of the key."""

    repository: str
    private: bool
    token: bytes | None
    key_sha256: str


class TokenKey:
    """The private key of the exporter, in a file that only its user can read."""

    def __init__(self, file: Path) -> None:
        """Read the key. Create the file if there is none."""
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
            content = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            partial = file.with_suffix(f".{os.getpid()}")
            partial.touch(mode=0o600)
            partial.write_bytes(content)
            partial.replace(file)
        loaded = serialization.load_pem_private_key(file.read_bytes(), None)
        assert isinstance(loaded, rsa.RSAPrivateKey)
        self._key = loaded
        self.public = loaded.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def publish(self, connection: Connection) -> None:
        """Store the public key, with which gateways encrypt from now on."""
        connection.execute(
            "INSERT INTO hub_keys VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET public_key = excluded.public_key",
            [NAME, self.public],
        )

    def decrypt(self, target: Target) -> str | None:
        """Return the token of a target. Return None if it was encrypted for another exporter."""
        if target.token is None or target.key_sha256 != _sha256(self.public):
            return None
        return self._key.decrypt(target.token, OAEP).decode()


def add_target(  # noqa: PLR0913
    connection: Connection,
    push_id: UUID,
    account_id: UUID,
    repository: str,
    private: bool,
    token: str,
    now: datetime,
) -> None:
    """Store the target of a push. Raise NoKey if no exporter has run yet. Idempotent."""
    row = connection.execute("SELECT public_key FROM hub_keys WHERE name = %s", [NAME]).fetchone()
    if row is None:
        raise NoKey
    public = bytes(row["public_key"])
    key = serialization.load_der_public_key(public)
    assert isinstance(key, rsa.RSAPublicKey)
    connection.execute(
        "INSERT INTO hub_targets (push_id, account_id, repository, private, token, key_sha256, "
        "created_at) VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (push_id) DO NOTHING",
        [
            *(push_id, account_id, repository, private),
            *(key.encrypt(token.encode(), OAEP), _sha256(public), now),
        ],
    )


def delete_target(connection: Connection, push_id: UUID) -> None:
    """Delete the target of a push that was never recorded."""
    connection.execute("DELETE FROM hub_targets WHERE push_id = %s", [push_id])


def target_of(connection: Connection, push_id: UUID) -> Target | None:
    """Return the target of a push, or None."""
    row = connection.execute(
        "SELECT repository, private, token, key_sha256 FROM hub_targets WHERE push_id = %s",
        [push_id],
    ).fetchone()
    return None if row is None else Target(**row)


def set_pushed_bytes(connection: Connection, push_id: UUID, done_bytes: int) -> None:
    """Store the progress of a push."""
    connection.execute(
        "UPDATE hub_targets SET done_bytes = %s WHERE push_id = %s", [done_bytes, push_id]
    )


def forget_token(connection: Connection, push_id: UUID) -> None:
    """Forget the token of a push."""
    connection.execute("UPDATE hub_targets SET token = NULL WHERE push_id = %s", [push_id])


def stored_tokens(connection: Connection, before: datetime) -> list[UUID]:
    """Return the pushes that were requested before a time and whose tokens are stored."""
    rows = connection.execute(
        "SELECT push_id FROM hub_targets WHERE token IS NOT NULL AND created_at < %s", [before]
    ).fetchall()
    return [row["push_id"] for row in rows]


def end_push(
    connection: Connection, push_id: UUID, url: str | None = None, message: str | None = None
) -> None:
    """Forget the token. Store the address of the commit, or the reason of the failure."""
    connection.execute(
        "UPDATE hub_targets SET token = NULL, url = %s, message = %s WHERE push_id = %s",
        [url, message, push_id],
    )


def shown_targets(
    connection: Connection, push_ids: Sequence[UUID]
) -> dict[UUID, dict[str, object]]:
    """Return the targets of pushes, without their tokens, by ID."""
    rows = connection.execute(
        "SELECT push_id, repository, private, done_bytes, url, message FROM hub_targets "
        "WHERE push_id = ANY(%s)",
        [list(push_ids)],
    ).fetchall()
    return {row["push_id"]: row for row in rows}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
