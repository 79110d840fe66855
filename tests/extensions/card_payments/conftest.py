"""A Stripe for the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.extensions.card_payments.localstripe.process import LocalStripe, running_localstripe


@pytest.fixture(scope="session")
def running_stripe() -> Iterator[LocalStripe]:
    """A Stripe for all tests of the session."""
    with running_localstripe() as running:
        yield running


@pytest.fixture
def local_stripe(running_stripe: LocalStripe, monkeypatch: pytest.MonkeyPatch) -> LocalStripe:
    """A Stripe that EcoLink uses."""
    running_stripe.enable(monkeypatch)
    return running_stripe
