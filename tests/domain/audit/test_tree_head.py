"""Signed heads of the event log's Merkle tree."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.merkle import leaf_hash
from domain.audit.tree_head import InvalidHead, LogKey, TreeHead

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
HEAD = TreeHead(
    "ecolink/a", 1000, leaf_hash(b"events"), 1017, datetime(2026, 11, 24, 12, tzinfo=UTC)
)
PUBLIC = LogKey("ecolink/a", KEY.public_key())


def test_a_signed_head_is_a_checkpoint_that_its_key_verifies() -> None:
    note = HEAD.sign(KEY)
    assert note.splitlines()[:2] == ["ecolink/a", "1000"]
    assert PUBLIC.verify(note) == HEAD


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1000", "1001"),
        ("event 1017", "event 1018"),
        ("12:00", "13:00"),
        ("\n\n", "\n"),
        ("— ", ""),
    ],
)
def test_a_changed_head_is_refused(old: str, new: str) -> None:
    with pytest.raises(InvalidHead):
        PUBLIC.verify(HEAD.sign(KEY).replace(old, new, 1))


def test_a_head_of_another_key_or_log_is_refused() -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    for key in (LogKey("ecolink/a", other.public_key()), LogKey("ecolink/b", KEY.public_key())):
        with pytest.raises(InvalidHead):
            key.verify(HEAD.sign(KEY))


def test_a_public_key_has_one_line_of_text() -> None:
    assert LogKey.parse(f"{PUBLIC}\n") == PUBLIC


@pytest.mark.parametrize(
    "text", ["", "ecolink/a", "a+b+c", str(PUBLIC).replace("+", "+0", 1), str(PUBLIC)[:-4]]
)
def test_other_text_is_no_public_key(text: str) -> None:
    with pytest.raises(ValueError, match="not a public key"):
        LogKey.parse(text)
