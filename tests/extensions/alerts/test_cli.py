"""`ecolink alerts` shows, silences and tests alerts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool

from extensions.alerts import tables
from extensions.alerts.domain.evaluation import Alert, Changes, Notice, NoticeKind
from extensions.alerts.domain.rule import Severity
from extensions.alerts.tables import NoticeState
from infrastructure.postgres.store import Connection
from tests.deploy.operator.command_line import ecolink
from tests.deploy.operator.conftest import _configured  # noqa: F401
from tests.extensions.alerts.webhook import SECRET, Webhook, webhook

NOW = datetime.now(UTC)
DISK = Alert("disk-low", "path=/data", Severity.WARNING, "/data is full.", NOW, NOW, NOW)


@pytest.fixture
def ops() -> Iterator[Webhook]:
    with webhook() as receiver:
        yield receiver


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ops: Webhook) -> Path:
    """The operator's file, with one receiver."""
    path = tmp_path / "alerts.toml"
    path.write_text(f'[receivers]\nops = "{ops.url}"\n')
    monkeypatch.setenv("ECOLINK_ALERTS_FILE", str(path))
    return path


def store(pool: ConnectionPool[Connection], alert: Alert, problem: str | None = None) -> None:
    """Store an alert, and its notice to `ops`."""
    kind = NoticeKind.FIRED if alert.resolved_at is None else NoticeKind.RESOLVED
    changes = Changes(saved=[alert], notices=[Notice(alert, kind, ("ops",))])
    with pool.connection() as connection:
        tables.save(connection, changes, NOW)
        for notice in tables.due_notices(connection, NOW, 10):
            if problem is None:
                tables.finish_notice(connection, notice.id, NoticeState.SENT)
            else:
                tables.postpone_notice(connection, notice.id, NOW, problem)


def test_list_and_history_show_alerts_with_their_delivery(
    pool: ConnectionPool[Connection],
) -> None:
    assert "No alert fires" in ecolink("alerts", "list")
    store(pool, DISK, "HTTP status 503")
    shown = ecolink("alerts", "list", exit_code=1)
    for part in ("warning", "disk-low", "path=/data", "/data is full.", "ops: HTTP status 503"):
        assert part in shown
    assert "No alert was resolved" in ecolink("alerts", "history")
    resolved = Alert(**{**vars(DISK), "resolved_at": NOW + timedelta(minutes=5)})
    store(pool, resolved)
    assert "No alert fires" in ecolink("alerts", "list")
    assert "Notified: ops" in ecolink("alerts", "history")


def test_a_silence_is_listed_until_it_is_ended(pool: ConnectionPool[Connection]) -> None:
    store(pool, DISK)
    ecolink("alerts", "silence", "--rule", "disk-low", "--for", "2h")
    shown = ecolink("alerts", "list", exit_code=1)
    assert "Silenced until" in shown
    assert "rule disk-low" in shown
    ecolink("alerts", "unsilence", "--rule", "disk-low")
    assert "Silenced" not in ecolink("alerts", "list", exit_code=1)
    ecolink("alerts", "unsilence", "--rule", "disk-low", exit_code=1)


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        ((), 2),
        (("--rule", "disk-low", "--for", "soon"), 2),
        (("--rule", "disk-lw"), 1),
    ],
)
def test_a_wrong_silence_is_refused(arguments: tuple[str, ...], exit_code: int) -> None:
    ecolink("alerts", "silence", *arguments, exit_code=exit_code)


def test_test_reports_the_result_of_each_receiver(file: Path, ops: Webhook) -> None:
    assert "ops (json): sent" in ecolink("alerts", "test")
    assert ops.titles == ["[test] EcoLink alerts"]
    ops.status = HTTPStatus.NOT_FOUND
    shown = ecolink("alerts", "test", "ops", exit_code=1)
    assert "ops (json): failed. The service returned HTTP status 404." in shown
    assert SECRET not in shown
    assert "'opps'" in ecolink("alerts", "test", "opps", exit_code=1)


def test_test_without_receivers_fails() -> None:
    assert "ECOLINK_ALERTS_FILE" in ecolink("alerts", "test", exit_code=1)


def test_rules_shows_the_rules_in_force_and_no_secret(file: Path) -> None:
    shown = ecolink("alerts", "rules")
    assert "Condition: consumer_lag older_than=5 min" in shown
    assert "receivers: ops" in shown
    assert "Receiver ops (json): ready" in shown
    assert SECRET not in shown


def test_rules_reports_an_invalid_file_and_a_url_that_apprise_does_not_accept(file: Path) -> None:
    file.write_text('[receivers]\nops = "slakc://secret"\n')
    shown = ecolink("alerts", "rules", exit_code=1)
    assert "'slakc'" in shown
    assert "secret" not in shown
    file.write_text("[rules.disk-low]\nfor = 5\n")
    assert f"{file}: rules.disk-low.for: 5:" in ecolink("alerts", "rules", exit_code=1)
