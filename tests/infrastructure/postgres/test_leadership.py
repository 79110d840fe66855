"""Leader election, with killed, frozen and disconnected leaders."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.processes import environment
from domain.access.role import Role
from domain.billing.account import Account
from domain.core.event_log import EventLog
from infrastructure.postgres import leadership, presence
from infrastructure.postgres.leadership import EXIT_CODE, SESSION_NAME, Leadership, leading
from infrastructure.postgres.store import connect, open_log, scalar
from infrastructure.settings import Settings
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.polling import eventually

pytestmark = pytest.mark.usefixtures("unseeded")

Leader = subprocess.Popen[bytes]


class Ended(Exception):
    """Raised instead of ending the process."""


def _raise(reason: str) -> None:
    raise Ended(reason)


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[[str], Leader]]:
    """Starts processes that lead as `test` and write their epoch to a file."""
    started: list[Leader] = []

    def start(file: str) -> Leader:
        command = (sys.executable, "-m", "tests.infrastructure.leaders", "test")
        process = subprocess.Popen(
            [*command, str(tmp_path / file)], env=os.environ | environment(settings)
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def epoch_of(path: Path) -> Callable[[], str]:
    return lambda: path.read_text() if path.exists() else ""


def written_by(log: EventLog, leader: Leader) -> int:
    """Number of events that a process has written."""
    return sum(
        f"leader:{leader.pid}".encode() in each.state
        for each in log.recorder.select_notifications(start=1, limit=1_000_000)
    )


def end_sessions(settings: Settings, name: str) -> None:
    """End a leader's session, like a restart of the server."""
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE application_name = %s AND datname = current_database()",
            [SESSION_NAME % name],
        )


def test_a_standby_waits_and_leads_when_the_leader_is_killed(
    start: Callable[[str], Leader], log: EventLog, tmp_path: Path
) -> None:
    first = start("first")
    assert eventually(epoch_of(tmp_path / "first")) == "1"
    second = start("second")
    eventually(lambda: written_by(log, first) > 10)
    assert written_by(log, second) == 0
    first.kill()
    assert eventually(epoch_of(tmp_path / "second")) == "2"
    eventually(lambda: written_by(log, second) > 10)


@pytest.mark.full
def test_a_frozen_leader_cannot_write_when_it_wakes(
    start: Callable[[str], Leader], log: EventLog, tmp_path: Path
) -> None:
    first = start("first")
    eventually(lambda: written_by(log, first) > 10)
    first.send_signal(signal.SIGSTOP)
    second = start("second")
    assert eventually(epoch_of(tmp_path / "second")) == "2"
    before = written_by(log, first)
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=60) == EXIT_CODE
    assert written_by(log, first) == before
    eventually(lambda: written_by(log, second) > 10)


def test_a_writer_that_freezes_during_a_save_blocks_no_other_writer(
    start: Callable[[str], Leader], settings: Settings, log: EventLog
) -> None:
    """PostgreSQL never waits for a process while the log is locked."""
    writer = start("first")
    eventually(lambda: written_by(log, writer) > 10)
    for _ in range(50):
        writer.send_signal(signal.SIGSTOP)
        with connect(settings, autocommit=False) as other:
            other.execute("SET lock_timeout = '20s'")
            other.execute("LOCK TABLE ecolink_events IN EXCLUSIVE MODE")
        writer.send_signal(signal.SIGCONT)
        time.sleep(random.uniform(0, 0.01))


def test_a_save_of_a_former_leader_is_refused_and_ends_it(settings: Settings) -> None:
    former = Leadership(settings, "test", _raise)
    former.take()
    with open_log(settings, leadership=former) as log, command():
        log.commit(Account.open(ACCOUNT_ID, Role.OWNER, "UTC"))
        end_sessions(settings, "test")
        with leading(settings, "test") as present:
            assert present.epoch == former.epoch + 1
            account = log.load(Account, ACCOUNT_ID)
            account.grant_credit(5, "late")
            with pytest.raises(Ended):
                log.commit(account)
            assert log.load(Account, ACCOUNT_ID).balance_micros == 0


def test_a_former_leader_cannot_move_a_position(settings: Settings) -> None:
    from eventsourcing.persistence import Tracking

    former = Leadership(settings, "test", _raise)
    former.take()
    with open_log(settings, leadership=former) as log:
        end_sessions(settings, "test")
        with leading(settings, "test"):
            with pytest.raises(Ended):
                log.process_recorder.insert_tracking(Tracking("test", 7))
            with pytest.raises(Ended):
                log.commit(tracking=Tracking("test", 7))
        assert log.process_recorder.max_tracking_id("test") is None


def test_a_leader_without_rivals_survives_a_lost_session(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "BEAT_SECONDS", 0.05)
    with leading(settings, "test") as present:
        first = eventually(lambda: _session(settings))
        end_sessions(settings, "test")
        assert eventually(lambda: _session(settings)) != first
        with open_log(settings, leadership=present) as log, command():
            log.commit(Account.open(ACCOUNT_ID, Role.OWNER, "UTC"))
        assert present.epoch == 1


def test_leaders_of_different_names_do_not_wait_for_each_other(settings: Settings) -> None:
    with leading(settings, "one") as one, leading(settings, "two") as two:
        assert (one.epoch, two.epoch) == (1, 1)


def _session(settings: Settings) -> int | None:
    """Process id of the server process with the lock."""
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as connection:
        row = connection.execute(
            "SELECT pid FROM pg_locks JOIN pg_database ON database = pg_database.oid "
            "WHERE locktype = 'advisory' AND datname = current_database() AND granted"
        ).fetchone()
    return None if row is None else row[0]


def test_a_leader_is_present_in_the_session_of_its_lead(
    settings: Settings,
    log: EventLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.05)
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    with connect(settings.model_copy(update={"database_url": settings.owner_database_url})) as c:
        with presence.present(settings, "sealer"):
            with leading(settings, "sealer"):
                session = _session(settings)
                failing = "SELECT 1 / 0, %s, %s, %s, %s, %s, %s, %s"
                monkeypatch.setattr(presence, "RUNS", failing)
                eventually(lambda: len(caplog.records) > 2)
                assert _session(settings) == session, "an error of the beat keeps the lead"
                assert scalar(c, sessions, [SESSION_NAME % "sealer"]) == 1
            assert presence.running_processes(c)
        assert not presence.running_processes(c)
        assert _session(settings) is None
