"""The rows of verifications, and the lock that their process holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from uuid import UUID, uuid4

import pytest

from infrastructure.postgres.store import connect
from infrastructure.seals.verifications import (
    KEPT_RUNS,
    STOPPED,
    Options,
    Outcome,
    Stage,
    Verdict,
    begin,
    fail,
    finish,
    is_running,
    report_of,
    report_progress,
    request_stop,
    verification,
    verifications,
    verifying,
)
from infrastructure.settings import Settings
from tests.polling import eventually

PERSON = uuid4()


def begun(settings: Settings, id: UUID) -> None:
    """Begin a verification, and lose the lock before it finishes."""
    with connect(settings) as reader:
        with verifying(settings) as connection:
            assert connection is not None
            begin(connection, id, PERSON, Options())
        eventually(lambda: not is_running(reader))  # PostgreSQL ends the session soon after


def test_only_one_process_verifies_at_a_time(settings: Settings) -> None:
    with connect(settings) as reader:
        assert not is_running(reader)
        with verifying(settings) as first:
            assert first is not None
            assert is_running(reader)
            with verifying(settings) as second:
                assert second is None
        eventually(lambda: not is_running(reader))


def test_a_row_has_the_progress_and_then_the_report(settings: Settings) -> None:
    id, options = uuid4(), Options(since=7, artifacts=True, kept_head="a\nhead")
    with connect(settings) as reader, verifying(settings) as connection:
        assert connection is not None
        begin(connection, id, PERSON, options)
        report_progress(connection, id, Stage.REPLAY, 3, 9)
        run = verification(reader, id)
        assert run is not None
        assert run.is_running
        assert (run.stage, run.done, run.total) == (Stage.REPLAY, 3, 9)
        assert (run.requested_by, run.options) == (PERSON, options)
        text = '{"b": "\\u0000", "a": 1}'
        finish(connection, id, Outcome(Verdict.DIFFERS, 2, "Two events."), text)
        run = verification(reader, id)
        assert run is not None
        assert (run.verdict, run.differences, run.is_running) == (Verdict.DIFFERS, 2, False)
        assert (run.summary, run.stopped) == ("Two events.", False)
        assert report_of(reader, id) == text


def test_the_process_reads_the_request_to_stop_when_it_reports_progress(
    settings: Settings,
) -> None:
    id = uuid4()
    with connect(settings) as person, verifying(settings) as connection:
        assert connection is not None
        begin(connection, id, PERSON, Options())
        assert not report_progress(connection, id, Stage.SEALS, 1, 9)
        request_stop(person, id)
        assert report_progress(connection, id, Stage.SEALS, 2, 9)
        finish(connection, id, Outcome(Verdict.MATCHES, 0, "All.", stopped=False), "{}")
        request_stop(person, id)  # too late
        run = verification(person, id)
        assert run is not None
        assert not run.stopped


def test_a_problem_is_stored_without_characters_that_postgresql_refuses(
    settings: Settings,
) -> None:
    id = uuid4()
    with connect(settings) as reader, verifying(settings) as connection:
        assert connection is not None
        begin(connection, id, PERSON, Options())
        fail(connection, id, "no\x00 store \ud800")
        run = verification(reader, id)
        assert run is not None
        assert (run.problem, run.is_running, run.has_stopped) == ("no store ?", False, False)


def test_an_unfinished_row_without_the_lock_has_stopped(settings: Settings) -> None:
    first, second = uuid4(), uuid4()
    begun(settings, first)
    with connect(settings) as reader:
        run = verification(reader, first)
        assert run is not None
        assert (run.problem, run.is_running, run.has_stopped) == (STOPPED, False, True)
        with verifying(settings) as connection:
            assert connection is not None
            begin(connection, second, PERSON, Options())
            shown = [(each.id, each.is_running) for each in verifications(reader)]
        assert shown == [(second, True), (first, False)]


def test_only_the_newest_rows_are_kept(settings: Settings) -> None:
    ids = [uuid4() for _ in range(KEPT_RUNS + 2)]
    for id in ids:
        begun(settings, id)
    with connect(settings) as reader:
        assert [each.id for each in verifications(reader)] == ids[:1:-1]


@pytest.mark.full
def test_a_killed_process_frees_the_lock(settings: Settings) -> None:
    program = (
        "import sys, time\n"
        "from infrastructure.settings import Settings\n"
        "from infrastructure.seals.verifications import verifying\n"
        "with verifying(Settings()) as connection:\n"
        "    print(connection is not None, flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = os.environ | {"ECOLINK_DATABASE_URL": str(settings.database_url)}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    with connect(settings) as reader:
        assert is_running(reader)
        process.send_signal(signal.SIGKILL)
        process.wait()
        eventually(lambda: not is_running(reader))
