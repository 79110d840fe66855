"""NATS keys and signed JWTs, which identify the clients of the bus and grant them subjects.

A NATS server in operator mode trusts one operator key. The operator signs accounts, an account
signs its users, and a user proves that it has its key. The server needs no list of users.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, cast
from uuid import uuid4

import nkeys

from infrastructure.rights import UNLIMITED, AllowedSubjects

API_TAG = "jetstream-api:"
"""Start of the tag in a user's JWT that names its prefix of JetStream requests."""


class KeyKind(IntEnum):
    """The kinds of NATS keys, by the prefix byte of their encoding."""

    OPERATOR = nkeys.PREFIX_BYTE_OPERATOR
    ACCOUNT = nkeys.PREFIX_BYTE_ACCOUNT
    USER = nkeys.PREFIX_BYTE_USER


def new_seed(kind: KeyKind, raw: bytes | None = None) -> str:
    """Return the seed of a new key, generated from `raw` (32 bytes) or from random bytes."""
    return nkeys.encode_seed(raw or os.urandom(32), kind).decode()


def public_key(seed: str) -> str:
    """Return a seed's public key, which identifies its owner to NATS, or raise ValueError."""
    return _public(_pair(seed))


def account_jwt(operator_seed: str, account_seed: str, name: str, claims: Mapping[str, Any]) -> str:
    """Return the JWT of an account with NATS `claims`, such as exports."""
    claims = {**claims, "type": "account"}
    return _signed(operator_seed, public_key(account_seed), name, claims)


def operator_jwt(operator_seed: str, system_account: str) -> str:
    """Return the JWT of the operator, which the operator signs itself."""
    claims = {"type": "operator", "system_account": system_account}
    return _signed(operator_seed, public_key(operator_seed), "ecolink", claims)


def user_jwt(
    account_seed: str,
    user_seed: str,
    name: str,
    allowed: AllowedSubjects = AllowedSubjects(),
    *,
    expires_at: int | None = None,
    account: str | None = None,
) -> str:
    """Return a user's JWT, signed by its account or a signing key of it, until `expires_at`."""
    publish = {"allow": allowed.publish, "deny": allowed.publish_denied}
    claims: dict[str, Any] = {
        "type": "user",
        "pub": {rule: subjects for rule, subjects in publish.items() if subjects},
        "sub": {"allow": allowed.subscribe} if allowed.subscribe else {},
        "subs": allowed.subscriptions,
        "data": UNLIMITED,
        "payload": allowed.payload,
    }
    if account is not None:
        claims["issuer_account"] = account
    if allowed.api is not None:
        claims["tags"] = [f"{API_TAG}{allowed.api}"]
    return _signed(account_seed, public_key(user_seed), name, claims, expires_at)


def credentials_file(jwt: str, seed: str) -> str:
    """Return the text of a `.creds` file, which all NATS clients can read."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


def api_of_credentials(text: str) -> str | None:
    """Return the prefix of JetStream requests that a credentials file names, or None."""
    part = text.partition("-----BEGIN NATS USER JWT-----")[2].partition("-----")[0].strip()
    try:
        body = part.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        tags = claims["nats"].get("tags", [])
    except (IndexError, KeyError, ValueError):
        return None  # the server refuses such a user
    return next((tag.removeprefix(API_TAG) for tag in tags if tag.startswith(API_TAG)), None)


def signer(seed: str) -> Callable[[str], bytes]:
    """Return the callback with which nats-py signs the nonce of a server as a user."""
    pair = _pair(seed)
    return lambda nonce: base64.b64encode(pair.sign(nonce.encode()))


def _pair(seed: str) -> nkeys.KeyPair:
    try:
        return nkeys.from_seed(bytearray(seed.encode()))
    except (nkeys.NkeysError, ValueError) as error:
        raise ValueError(f"not the seed of a NATS key ({type(error).__name__})") from error


def _public(pair: nkeys.KeyPair) -> str:
    return cast("bytes", pair.public_key).decode()


def _signed(
    issuer_seed: str,
    subject: str,
    name: str,
    claims: Mapping[str, Any],
    expires_at: int | None = None,
) -> str:
    issuer = _pair(issuer_seed)
    body: dict[str, Any] = {
        "jti": uuid4().hex,
        "iat": int(time.time()),
        "iss": _public(issuer),
        "name": name,
        "sub": subject,
        "nats": {**claims, "version": 2},
    }
    if expires_at is not None:
        body["exp"] = expires_at
    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    text = f"{_part(header)}.{_part(body)}"
    return f"{text}.{_base64(issuer.sign(text.encode()))}"


def _part(content: Mapping[str, Any]) -> str:
    return _base64(json.dumps(content).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
