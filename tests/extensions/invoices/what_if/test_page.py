"""The page of charges at other prices."""

from __future__ import annotations

from fastapi.testclient import TestClient

from domain.access.role import Role
from infrastructure.accounts.profiles import add_account_name
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.history import History
from tests.builders.platform import Platform
from tests.gateway.ops.conftest import operator as operator
from tests.gateway.ops.pages import row, shown
from tests.gateway.ops.test_inspection import registered
from tests.gateway.web.signed_in import Browser, signed_in


def test_other_prices_are_compared_with_the_charges(
    operator: Browser, history: History, settings: Settings, platform: Platform
) -> None:
    job = registered(history)
    with connect(settings) as connection:
        add_account_name(connection, job.account_id, "ada")
    platform.project()
    assert 'data-empty="result"' in shown(operator, "/ops/what-if")
    rate = job.rate_micros_per_hour // job.gpu_count
    kind = job.plan.gpu_type
    same = shown(operator, f"/ops/what-if?price.{kind}={rate / 1e6:.6f}")
    assert row(same, f'data-line="gpu-types {kind}"').endswith("$0.00")
    double = shown(operator, f"/ops/what-if?price.{kind}={2 * rate / 1e6:.6f}")
    _, _, charged, repriced, difference = row(double, 'data-line="accounts ada"').split()
    assert charged == difference != repriced
    assert "data-problem" in shown(operator, f"/ops/what-if?price.{kind}=many")
    for period in ("first=2026-01-02&last=2026-01-01", "last=9999-12-31"):
        assert "data-problem" in shown(operator, f"/ops/what-if?price.{kind}=1&{period}")


def test_an_auditor_sees_the_page(client: TestClient, platform: Platform) -> None:
    auditor = signed_in(client, platform.person(Role.AUDITOR))
    assert 'href="/ops/security" data-needs="operator"' in shown(auditor, "/ops/what-if")
