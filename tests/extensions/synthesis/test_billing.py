"""Generated datasets on the billing page and in statements."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from domain.billing.account import Account
from domain.billing.token_meter import TokenMeter
from domain.billing.token_rates import TokenRates, TokenUsage
from domain.core.aggregate import because
from extensions.synthesis.names import set_synthesis_name
from infrastructure.extensions import SELECTION, selected
from infrastructure.postgres.store import connect
from tests.builders.platform import Platform
from tests.gateway.billing.test_page import words
from tests.gateway.web.signed_in import Browser


@pytest.fixture
def charged(browser: Browser, platform: Platform) -> UUID:
    """A synthesis with one charge."""
    id, account_id = uuid4(), browser.person.account_id
    usage = TokenUsage(prompt_tokens=1000, completion_tokens=2000)
    with because(platform.cause):
        rates = TokenRates(prompt_micros=5_000_000, completion_micros=10_000_000)
        meter = TokenMeter.open(account_id, id, rates, None)
        meter.reserve(1, 30_000)
        account = platform.log.load(Account, account_id)
        account.settle(captured_micros=0, reserved_micros=30_000)
        platform.log.commit(meter, account)
        charge, released = meter.post(1, usage)
        account.settle(captured_micros=charge, reserved_micros=-released)
        platform.log.commit(meter, account)
    with connect(platform.settings) as connection:
        set_synthesis_name(connection, account_id, id, "shop chats")
    platform.project()
    return id


def test_a_generated_dataset_has_its_name_and_no_launches(browser: Browser, charged: UUID) -> None:
    page = browser.client.get("/billing").text
    assert page.count(f'<a href="/syntheses/{charged}">shop chats</a>') == 2
    assert "shop chats generated dataset — — $0.025 — $0.025" in words(page)
    assert "shop chats \N{MINUS SIGN}$0.025" in words(page)
    (listed,) = browser.client.get("/api/statements/jobs").json()["data"]
    assert (listed["name"], listed["job_id"]) == ("shop chats", None)
    assert "shop chats" in browser.client.get("/api/statements/jobs.csv").text


@pytest.fixture
def unselected(charged: UUID, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Select no extension after the charge."""
    monkeypatch.setenv(SELECTION, "")
    selected.cache_clear()
    yield
    selected.cache_clear()


@pytest.mark.usefixtures("unselected")
def test_a_generated_dataset_has_no_link_if_the_extension_is_not_selected(
    browser: Browser, charged: UUID
) -> None:
    page = browser.client.get("/billing").text
    assert "/syntheses/" not in page
    assert f"{charged.hex[:8]} generated dataset — — $0.025 — $0.025" in words(page)
