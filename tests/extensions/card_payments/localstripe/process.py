"""localstripe as a process, and what happens outside of its API."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
import stripe

from deploy.local.ports import free_port
from tests.polling import eventually

SECRET_KEY, WEBHOOK_SECRET = "sk_test_ecolink_4711", "whsec_ecolink_4711"
WEBHOOK = "/payments/stripe/webhook"
DECLINED, NEEDS_APPROVAL = "4000000000000341", "4000002500003155"
"""Numbers of cards: one whose charges fail, and one whose holder must approve each payment."""


@dataclass(frozen=True)
class LocalStripe:
    """A running localstripe."""

    url: str

    def enable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let EcoLink use this Stripe."""
        monkeypatch.setenv("ECOLINK_STRIPE_SECRET_KEY", SECRET_KEY)
        monkeypatch.setenv("ECOLINK_STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET)
        monkeypatch.setenv("ECOLINK_STRIPE_API_BASE", self.url)

    def pay(self, checkout: str, **how: object) -> dict[str, Any]:
        """Pay a checkout page as a customer. Return the session."""
        return self._post(f"/_config/checkout/{checkout}/pay", how)

    def expire(self, checkout: str) -> None:
        """End a checkout page."""
        self._post(f"/v1/checkout/sessions/{checkout}/expire", {})

    def refund(self, reference: str, cents: int) -> dict[str, Any]:
        """Refund a payment in the dashboard."""
        return self._post("/v1/refunds", {"payment_intent": reference, "amount": cents})

    def fail_refund(self, refund: str) -> None:
        """Let a refund fail later."""
        self._post(f"/_config/refunds/{refund}/fail", {})

    def refunds(self, reference: str) -> list[dict[str, Any]]:
        """Return the refunds of a payment."""
        headers, params = {"authorization": f"Bearer {SECRET_KEY}"}, {"payment_intent": reference}
        return httpx.get(f"{self.url}/v1/refunds", params=params, headers=headers).json()["data"]

    def dispute(self, reference: str, cents: int) -> dict[str, Any]:
        """Dispute a payment, as the customer's bank."""
        return self._post("/_config/disputes", {"payment_intent": reference, "amount": cents})

    def close(self, dispute: str, status: str) -> dict[str, Any]:
        """Decide a dispute: `won` (by EcoLink) or `lost`."""
        return self._post(f"/_config/disputes/{dispute}/close", {"status": status})

    def cards(self, customer: str) -> list[str]:
        """Return the IDs of the saved cards of a customer."""
        headers = {"authorization": f"Bearer {SECRET_KEY}"}
        params = {"customer": customer, "type": "card"}
        found = httpx.get(f"{self.url}/v1/payment_methods", params=params, headers=headers)
        return [each["id"] for each in found.json()["data"]]

    def forget_keys(self) -> None:
        """Forget all idempotency keys, as Stripe does after a day."""
        self._post("/_config/keys/forget", {})

    def count(self, kind: str) -> int:
        """Return the number of objects of a type."""
        return httpx.get(f"{self.url}/_config/counts").json().get(kind, 0)

    def send_webhooks_to(self, gateway_url: str) -> None:
        """Send all events to a gateway, signed. There is one receiver."""
        body = {"url": f"{gateway_url}{WEBHOOK}", "secret": WEBHOOK_SECRET}
        self._post("/_config/webhooks/ecolink", body)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {SECRET_KEY}"}
        answer = httpx.post(f"{self.url}{path}", json=body or {"x": 1}, headers=headers)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else {}


def event_of(kind: str, about: dict[str, Any], event_id: str | None = None) -> bytes:
    """Return the body of a webhook."""
    event = {
        "id": event_id or f"evt_{uuid4().hex}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": int(time.time()),
        "type": kind,
        "data": {"object": about},
    }
    return json.dumps(event).encode()


def signature_of(body: bytes, secret: str = WEBHOOK_SECRET, at: float | None = None) -> str:
    """Return the header of a signed webhook."""
    moment = int(time.time() if at is None else at)
    signed = stripe.WebhookSignature._compute_signature(f"{moment}.{body.decode()}", secret)
    return f"t={moment},v1={signed}"


UNREACHABLE = LocalStripe("http://127.0.0.1:9")


@contextmanager
def running_localstripe() -> Iterator[LocalStripe]:
    """Run localstripe until the end of the block."""
    url = f"http://127.0.0.1:{(port := free_port(0))}"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.extensions.card_payments.localstripe.server", str(port)]
    )
    try:
        eventually(lambda: _answers(url), 60)
        yield LocalStripe(url)
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/_config/counts").is_success
    except httpx.TransportError:
        return False
