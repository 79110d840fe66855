"""Signed links."""

from __future__ import annotations

from uuid import uuid4

from domain.notices.link import LinkPurpose, address_in, is_signed, new_signing_key, signed_token


def test_a_token_is_valid_for_one_address_and_one_purpose() -> None:
    id, other, key = uuid4(), uuid4(), new_signing_key()
    token = signed_token(LinkPurpose.UNSUBSCRIBE, id, key)
    assert address_in(token) == id
    assert is_signed(token, LinkPurpose.UNSUBSCRIBE, id, key)
    assert not is_signed(token, LinkPurpose.CONFIRM, id, key)
    assert not is_signed(token, LinkPurpose.UNSUBSCRIBE, other, key)
    assert not is_signed(token, LinkPurpose.UNSUBSCRIBE, id, new_signing_key())
    assert not is_signed(f"{token}x", LinkPurpose.UNSUBSCRIBE, id, key)


def test_a_text_that_is_no_token_has_no_address() -> None:
    for text in ("", ".", "x.y", "\N{SNOWMAN}"):
        assert address_in(text) is None
