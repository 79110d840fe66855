"""The page of revenue, payments and credits by day."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from domain.access.role import Role
from domain.billing.payment import TEST_PROVIDER, Receipt
from domain.core.aggregate import because
from tests.builders.platform import DOLLAR, Platform
from tests.gateway.jobs.owners import Owner
from tests.gateway.ops.pages import row, shown
from tests.gateway.web.signed_in import Browser, signed_in


def test_there_is_no_money(operator: Browser) -> None:
    page = shown(operator, "/ops/money")
    assert 'data-empty="days"' in page
    assert 'data-empty="estimates"' in page


def test_the_money_of_all_accounts_is_shown_by_day(
    operator: Browser, platform: Platform, owner: Owner
) -> None:
    today = platform.cause.now
    past = today - timedelta(days=20)
    other = platform.person()
    with because(replace(platform.cause, now=past)):
        for provider, dollars in (("manual", 7), (TEST_PROVIDER, 3)):
            receipt = Receipt(provider=provider, reference="1", amount_micros=dollars * DOLLAR)
            platform.ecolink.top_up(other.account_id, receipt)
    owner.train()
    owner.bill(1, 3600)
    platform.project()
    page = shown(operator, "/ops/money")
    charged = f"${owner.rate / DOLLAR:.2f}"
    assert row(page, f'data-day="{today.date()}"').endswith(
        f"{charged} {charged} $0.00 $0.00 $0.00 $0.00 $0.00 $10.00"
    )
    assert row(page, f'data-day="{past.date()}"').endswith(
        "$0.00 $0.00 $0.00 $0.00 $7.00 $0.00 $3.00 $0.00"
    )
    assert f'data-day="{past.date()}"' not in shown(operator, "/ops/money?days=7")
    assert operator.client.get("/ops/money?days=8").status_code == 422


def test_an_owner_does_not_see_it(operator: Browser, platform: Platform) -> None:
    assert (
        signed_in(operator.client, platform.person(Role.AUDITOR))
        .client.get("/ops/money")
        .is_success
    )
    owner = signed_in(operator.client, platform.person())
    assert owner.client.get("/ops/money").status_code == 403
