"""Invoice files, verified with the public key alone."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.tree_head import LogKey, signature_line
from domain.core.event_log import EventLog
from extensions.invoices.domain.invoice import invoice_of
from extensions.invoices.domain.sealed_invoice import (
    ProvenEvent,
    Result,
    SealedInvoice,
    verify_invoice,
)
from tests.builders.bills import day
from tests.builders.examples import ACCOUNT_ID
from tests.extensions.invoices.bills import KEY, NOVEMBER, ORIGIN, PUBLIC, invoice_file, two_months

FLIPS = 400


@pytest.fixture(scope="module")
def content() -> bytes:
    return invoice_file(two_months(EventLog()).log)


def signed(content: bytes, **changes: Any) -> bytes:
    """Change a document as one who has the key."""
    document = SealedInvoice.model_validate_json(content).model_copy(update=changes)
    line = signature_line(ORIGIN, KEY, document.signed_text)
    return document.model_copy(update={"signature": line}).content


def test_an_untouched_invoice_is_proven(content: bytes) -> None:
    verified = verify_invoice(content, PUBLIC)
    assert verified.failures == []
    assert verified.invoice is not None
    assert verified.invoice.account_id == ACCOUNT_ID
    assert verified.invoice.period == NOVEMBER
    assert verified.result is Result.PROVEN
    assert verified.head is not None
    assert verified.events > 20


def test_a_file_without_refunds_is_like_one_from_before_refunds_existed(content: bytes) -> None:
    assert b"refunds_micros" not in content


def test_a_changed_byte_fails(content: bytes) -> None:
    chance = Random(1)
    for _ in range(FLIPS):
        changed = bytearray(content)
        place = chance.randrange(len(content))
        changed[place] ^= 1 << chance.randrange(8)
        assert verify_invoice(bytes(changed), PUBLIC).failures, place


@pytest.mark.parametrize("changed", ["before", "after", "cut"])
def test_added_or_missing_bytes_fail(content: bytes, changed: str) -> None:
    other = {"before": b" " + content, "after": content + b"\n", "cut": content[:-1]}[changed]
    assert verify_invoice(other, PUBLIC).failures


def test_a_signature_in_another_spelling_fails(content: bytes) -> None:
    """The last character of base64 has two bits that do not count."""
    signature = SealedInvoice.model_validate_json(content).signature.encode()
    last = signature[-2:-1]
    twin = bytes([last[0] + 1])
    changed = content.replace(signature, signature[:-2] + twin + b"=")
    assert changed != content
    assert verify_invoice(changed, PUBLIC).failures


def test_the_key_of_another_log_is_refused(content: bytes) -> None:
    other = LogKey(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"o" * 32).public_key())
    failures = verify_invoice(content, other).failures
    assert "signature" in failures[0]
    assert "tree head" in failures[1]


def test_a_wrong_figure_is_named_even_if_the_key_signed_it(content: bytes) -> None:
    invoice = SealedInvoice.model_validate_json(content).invoice
    wrong = invoice.model_copy(update={"closing_micros": invoice.closing_micros - 1})
    (failure,) = verify_invoice(signed(content, invoice=wrong), PUBLIC).failures
    assert failure.startswith("closing_micros of the invoice is ")


def test_an_invented_event_is_named_even_if_the_key_signed_it(content: bytes) -> None:
    events = list(SealedInvoice.model_validate_json(content).events)
    index = max(index for index, each in enumerate(events) if each.topic == "ToppedUp")
    state = events[index].state.replace('"amount_micros":', '"amount_micros":1')
    events[index] = events[index].model_copy(update={"state": state})
    failures = verify_invoice(signed(content, events=tuple(events)), PUBLIC).failures
    assert f"Event {events[index].id} (ToppedUp) is not proven" in failures[0]


def test_an_omitted_event_is_named_even_if_the_key_signed_it(content: bytes) -> None:
    events = SealedInvoice.model_validate_json(content).events
    topped_up = [each for each in events if each.topic == "ToppedUp"]
    kept: tuple[ProvenEvent, ...] = tuple(each for each in events if each != topped_up[0])
    (failure,) = verify_invoice(signed(content, events=kept), PUBLIC).failures
    assert f"Version {topped_up[0].originator_version} is expected" in failure


@pytest.mark.parametrize("first", ["ToppedUp", "CreditGranted", "ChargeReversed"])
def test_an_invoice_without_the_last_events_is_not_proven_to_be_complete(
    content: bytes, first: str
) -> None:
    """Given a holder of the key who omits the event after the period and credits before it."""
    events = SealedInvoice.model_validate_json(content).events
    last = {each.topic: each.id for each in events}
    omitted = {
        each.id for each in events if each.originator_id == ACCOUNT_ID and each.id >= last[first]
    }
    if first == "ChargeReversed":
        omitted.add(last["LostWorkCredited"])  # the meter's last event
    kept = tuple(each for each in events if each.id not in omitted)
    invoice = invoice_of(ACCOUNT_ID, NOVEMBER, [each.row for each in kept])
    verified = verify_invoice(signed(content, events=kept, invoice=invoice), PUBLIC)
    assert verified.failures == []
    assert verified.result is Result.COMPLETENESS_NOT_PROVEN


def test_a_head_from_before_the_end_of_the_period_fails(content: bytes) -> None:
    """Given a holder of the key who chooses an old head, which the last events are not in."""
    head = PUBLIC.verify(SealedInvoice.model_validate_json(content).head)
    old = replace(head, sealed_at=day(11, 30)).sign(KEY)
    verified = verify_invoice(signed(content, head=old), PUBLIC)
    (failure,) = verified.failures
    assert "sealed at 2026-11-30 12:00:00 UTC, before the end of the period" in failure
    assert verified.result is Result.FAILED


def test_a_head_from_the_end_of_the_period_passes(content: bytes) -> None:
    head = PUBLIC.verify(SealedInvoice.model_validate_json(content).head)
    last = replace(head, sealed_at=NOVEMBER.end).sign(KEY)
    assert verify_invoice(signed(content, head=last), PUBLIC).failures == []


def test_a_proof_with_unknown_nodes_fails(content: bytes) -> None:
    events = list(SealedInvoice.model_validate_json(content).events)
    events[0] = events[0].model_copy(update={"proof": (10**9, -1)})
    (failure,) = verify_invoice(signed(content, events=tuple(events)), PUBLIC).failures
    assert f"Event {events[0].id}" in failure


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"format":"other"}'])
def test_other_files_are_no_invoices(content: bytes) -> None:
    (failure,) = verify_invoice(content, PUBLIC).failures
    assert "not an invoice" in failure
