"""Signatures of webhooks, and what EcoLink reads from them."""

from __future__ import annotations

import logging
import time
from uuid import uuid4

import pytest

from domain.core.errors import Invalid
from extensions.card_payments.settings import CardSettings
from extensions.card_payments.stripe_provider import (
    TOLERANCE_SECONDS,
    InvalidSignature,
    stripe_provider,
    verified_event,
)
from infrastructure.extensions import environment
from infrastructure.payments.provider import (
    ProviderDisabled,
    ProviderUnavailable,
    card_provider,
    provider_named,
)
from infrastructure.settings import Settings
from tests.extensions.card_payments.localstripe.process import (
    SECRET_KEY,
    UNREACHABLE,
    WEBHOOK_SECRET,
    LocalStripe,
    event_of,
    signature_of,
)

BODY = event_of("checkout.session.completed", {"id": "cs_1", "object": "checkout.session"})


def test_an_event_with_a_valid_signature_is_read() -> None:
    event = verified_event(BODY, signature_of(BODY), WEBHOOK_SECRET)
    assert event.type == "checkout.session.completed"
    assert event.payment_id is None


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "t=1,v1=00",
        signature_of(BODY, "whsec_other"),
        signature_of(BODY + b" "),
        signature_of(BODY, at=time.time() - TOLERANCE_SECONDS - 60),
    ],
    ids=["missing", "empty", "wrong", "of another secret", "of another body", "old"],
)
def test_a_missing_wrong_or_old_signature_is_refused(signature: str | None) -> None:
    with pytest.raises(InvalidSignature) as refusal:
        verified_event(BODY, signature, WEBHOOK_SECRET)
    assert WEBHOOK_SECRET not in str(refusal.value)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"id": 1}', b"\xff"])
def test_a_signed_body_that_is_no_event_is_refused(body: bytes) -> None:
    signature = signature_of(body) if body != b"\xff" else "t=1,v1=00"
    with pytest.raises(Invalid):
        verified_event(body, signature, WEBHOOK_SECRET)


def test_the_payment_of_an_event_is_that_of_its_metadata() -> None:
    payment_id = uuid4()
    metadata = {"ecolink_payment": str(payment_id)}
    for about in (
        {
            "id": "pi_1",
            "object": "payment_intent",
            "metadata": metadata,
        },
        {"id": "cs_1", "object": "checkout.session", "client_reference_id": str(payment_id)},
    ):
        body = event_of("any", about)
        assert verified_event(body, signature_of(body), WEBHOOK_SECRET).payment_id == payment_id
    foreign = event_of("any", {"id": "cs_1", "object": "x", "client_reference_id": "order 7"})
    assert verified_event(foreign, signature_of(foreign), WEBHOOK_SECRET).payment_id is None


def test_without_a_key_there_is_no_provider() -> None:
    assert stripe_provider() is None
    with pytest.raises(ProviderDisabled, match="ECOLINK_STRIPE_SECRET_KEY"):
        provider_named(Settings(), "stripe")
    assert card_provider() is None


def test_a_receipt_is_that_of_a_successful_payment_at_stripe(local_stripe: LocalStripe) -> None:
    provider = stripe_provider()
    assert provider is not None
    for reference in ("transfer 7", "pi_unknown"):
        with pytest.raises(Invalid) as refusal:
            provider.receipt(reference, 5_000_000)
        assert refusal.value.field == "reference"


def test_no_secret_is_in_a_log_or_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    UNREACHABLE.enable(monkeypatch)
    provider = stripe_provider()
    assert provider is not None
    with caplog.at_level(logging.DEBUG), pytest.raises(ProviderUnavailable) as refusal:
        provider.receipt("pi_1", 5_000_000)
    assert SECRET_KEY not in caplog.text + str(refusal.value) + repr(CardSettings())


@pytest.mark.parametrize(
    ("role", "secrets"),
    [
        ("gateway", {"STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"}),
        ("billing", {"STRIPE_SECRET_KEY"}),
        ("scheduler", set[str]()),
    ],
)
def test_only_the_gateway_and_billing_get_the_key(
    monkeypatch: pytest.MonkeyPatch, role: str, secrets: set[str]
) -> None:
    UNREACHABLE.enable(monkeypatch)
    given = {f"ECOLINK_{each}" for each in secrets} | {"ECOLINK_STRIPE_API_BASE"}
    assert {each for each in environment(role) if "STRIPE" in each} == given
