"""Signed links."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from extensions.notifications.domain.link import (
    LinkPurpose,
    LinkSigner,
    address_in,
    new_signing_key,
)
from tests.builders.commands import NOW


def test_a_token_is_valid_for_one_address_and_one_purpose() -> None:
    signer = LinkSigner(uuid4(), new_signing_key(), NOW)
    token = signer.token(LinkPurpose.UNSUBSCRIBE)
    assert address_in(token) == signer.address_id
    assert signer.is_signed(token, LinkPurpose.UNSUBSCRIBE)
    assert not signer.is_signed(token, LinkPurpose.CONFIRM)
    assert not signer.is_signed(f"{token}x", LinkPurpose.UNSUBSCRIBE)
    for other in (
        replace(signer, address_id=uuid4()),
        replace(signer, signing_key=new_signing_key()),
    ):
        assert not other.is_signed(token, LinkPurpose.UNSUBSCRIBE)


def test_another_request_ends_the_link_to_confirm_alone() -> None:
    signer = LinkSigner(uuid4(), new_signing_key(), NOW)
    later = replace(signer, requested_at=NOW + timedelta(microseconds=1))
    assert signer.is_signed(signer.token(LinkPurpose.CONFIRM), LinkPurpose.CONFIRM)
    assert not later.is_signed(signer.token(LinkPurpose.CONFIRM), LinkPurpose.CONFIRM)
    assert later.is_signed(signer.token(LinkPurpose.UNSUBSCRIBE), LinkPurpose.UNSUBSCRIBE)


def test_a_text_that_is_no_token_has_no_address() -> None:
    for text in ("", ".", "x.y", "\N{SNOWMAN}"):
        assert address_in(text) is None
