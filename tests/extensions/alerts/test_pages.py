"""The page of alerts and silences."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from domain.access.role import Role
from extensions.alerts import tables
from extensions.alerts.domain.evaluation import Alert, Changes, Silence
from extensions.alerts.domain.rule import Severity
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.gateway.ops.pages import row, shown
from tests.gateway.web.signed_in import Browser, signed_in

SILENCES = "/ops/alerts/silences"
FIRED = datetime.now(UTC) - timedelta(hours=1)
FULL = Alert("disk-low", "", Severity.WARNING, "2 GiB are free.", FIRED, FIRED)
LATE = Alert("lag", "consumer=billing", Severity.CRITICAL, "billing is late.", FIRED, FIRED)
OVER = Alert("job-failed", "", Severity.INFO, "It failed.", FIRED, FIRED, None, FIRED)


@pytest.fixture
def stored(settings: Settings) -> None:
    """Two alerts that fire, and one that was resolved."""
    with connect(settings) as connection:
        tables.save(connection, Changes([FULL, LATE, OVER]), FIRED)


def sent(browser: Browser, path: str, **form: str) -> str:
    return browser.client.post(path, data=form, headers=browser.htmx).text


def stored_silences(settings: Settings) -> list[Silence]:
    with connect(settings) as connection:
        return tables.silences(connection)


def test_there_is_no_alert(operator: Browser) -> None:
    page = shown(operator, "/ops/alerts")
    for empty in ("firing", "silences", "resolved"):
        assert f'data-empty="{empty}"' in page


def test_an_alert_is_silenced_and_its_silence_ended(
    operator: Browser, stored: None, settings: Settings
) -> None:
    page = shown(operator, "/ops/alerts")
    assert row(page, 'data-alert="lag"').startswith(
        "lag consumer=billing billing is late. critical "
    )
    assert row(page, 'data-resolved="job-failed"').startswith("job-failed It failed. info ")
    page = sent(operator, SILENCES, rule="lag", group=LATE.group, duration="4h")
    assert "silenced until" in row(page, 'data-alert="lag"')
    assert "silenced until" not in row(page, 'data-alert="disk-low"')
    (silence,) = stored_silences(settings)
    assert (silence.rule, silence.group) == ("lag", LATE.group)
    assert timedelta(hours=3) < silence.until - datetime.now(UTC) <= timedelta(hours=4)
    page = sent(operator, f"{SILENCES}/end", rule="lag", group=LATE.group)
    assert 'data-empty="silences"' in page
    assert 'role="alert"' in sent(operator, f"{SILENCES}/end", rule="lag", group=LATE.group)


def test_a_silence_of_a_rule_or_of_a_group_covers_all_their_alerts(
    operator: Browser, stored: None, settings: Settings
) -> None:
    sent(operator, SILENCES, rule="lag", duration="30min")
    sent(operator, SILENCES, group=LATE.group, duration="2d")
    found = {(each.rule, each.group) for each in stored_silences(settings)}
    assert found == {("lag", None), (None, LATE.group)}
    assert "any rule consumer=billing" in row(shown(operator, "/ops/alerts"), 'data-silence=""')


def test_a_wrong_silence_gets_a_notice(operator: Browser, stored: None, settings: Settings) -> None:
    for form in ({"rule": "lag", "duration": "soon"}, {"duration": "4h"}):
        assert 'role="alert"' in sent(operator, SILENCES, **form)
    assert stored_silences(settings) == []


def test_an_auditor_reads_alerts_and_silences_nothing(
    client: TestClient, platform: Platform, stored: None, settings: Settings
) -> None:
    auditor = signed_in(client, platform.person(Role.AUDITOR))
    assert 'data-alert="lag"' in shown(auditor, "/ops/alerts")
    assert 'role="alert"' in sent(auditor, SILENCES, rule="lag", duration="4h")
    assert stored_silences(settings) == []


def test_the_health_page_shows_the_alerts_that_fire(operator: Browser, settings: Settings) -> None:
    assert 'data-empty="alerts"' in shown(operator, "/ops")
    now = datetime.now(UTC)
    alert = Alert("disk-low", "", Severity.CRITICAL, "1 GiB is free.", now, now, now, None)
    with connect(settings) as connection:
        tables.save(connection, Changes([alert], [], []), now)
        tables.silence(connection, Silence("disk-low", None, now.replace(year=now.year + 1)))
    text = row(shown(operator, "/ops"), 'data-alert="disk-low"')
    assert text.startswith("disk-low 1 GiB is free. critical ")
    assert "not silenced" not in text
