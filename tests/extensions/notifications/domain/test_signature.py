"""Signatures, verified by the clients that receivers use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from openai import InvalidWebhookSignatureError, OpenAI
from standardwebhooks import Webhook

from extensions.notifications.domain.message import Message, WebhookType
from extensions.notifications.domain.signature import (
    SECRET_PREFIX,
    new_signing_secret,
    signed_headers,
)
from tests.builders.examples import ACCOUNT_ID

CLIENT = OpenAI(api_key="unused")


def message() -> Message:
    data = {"id": "ftjob-0b0f8f5c3a4e5d0c9a4d0e6b1c2d3e4f"}
    type, now = WebhookType.JOB_SUCCEEDED, datetime.now(UTC)
    return Message("evt_1", ACCOUNT_ID, type, now, data, "job")


def test_the_openai_client_unwraps_a_message() -> None:
    secret, sent = new_signing_secret(), message()
    headers = signed_headers([secret], sent.id, datetime.now(UTC), sent.body)
    event = CLIENT.webhooks.unwrap(sent.body, headers, secret=secret)
    assert event.type == "fine_tuning.job.succeeded"
    assert (event.id, event.object) == ("evt_1", "event")
    assert event.data.id == sent.data["id"]
    assert event.created_at == int(sent.created_at.timestamp())


def test_standardwebhooks_verifies_a_message() -> None:
    secret, sent = new_signing_secret(), message()
    headers = signed_headers([secret], sent.id, datetime.now(UTC), sent.body)
    assert Webhook(secret).verify(sent.body, headers)["id"] == "evt_1"


def test_both_secrets_of_a_rotation_verify_a_message() -> None:
    new, old, sent = new_signing_secret(), new_signing_secret(), message()
    headers = signed_headers([new, old], sent.id, datetime.now(UTC), sent.body)
    for secret in (new, old):
        CLIENT.webhooks.verify_signature(sent.body, headers, secret=secret)
        Webhook(secret).verify(sent.body, headers)


def test_a_changed_message_another_secret_and_an_old_signature_are_refused() -> None:
    secret, sent = new_signing_secret(), message()
    now = datetime.now(UTC)
    headers = signed_headers([secret], sent.id, now, sent.body)
    late = signed_headers([secret], sent.id, now - timedelta(minutes=6), sent.body)
    for body, given, key in (
        (sent.body.replace("succeeded", "cancelled"), headers, secret),
        (sent.body, headers | {"webhook-id": "evt_2"}, secret),
        (sent.body, headers, new_signing_secret()),
        (sent.body, late, secret),
    ):
        with pytest.raises(InvalidWebhookSignatureError):
            CLIENT.webhooks.verify_signature(body, given, secret=key)


def test_secrets_differ_and_have_the_prefix() -> None:
    made = {new_signing_secret() for _ in range(10)}
    assert len(made) == 10
    assert all(each.startswith(SECRET_PREFIX) for each in made)
