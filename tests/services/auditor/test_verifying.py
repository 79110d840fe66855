"""The process of a verification: its progress, its report and its problems."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

import pytest

from infrastructure.postgres.store import connect
from infrastructure.seals import verifications
from infrastructure.seals.verifications import Options, Stage, Verdict, Verification, verification
from infrastructure.settings import Settings
from services.auditor import verifying
from services.auditor.verifying import Progress, Request, run
from services.sealer import verification as seals
from tests.builders.history import History
from tests.services.auditor.test_report import KEY


def request(settings: Settings, options: Options) -> Request:
    return Request(settings=settings, id=uuid4(), requested_by=uuid4(), options=options)


def stored(settings: Settings, id: UUID) -> Verification:
    with connect(settings) as reader:
        found = verification(reader, id)
    assert found is not None
    return found


def test_a_verification_without_a_key_stores_its_problem(settings: Settings) -> None:
    asked, started = request(settings, Options()), list[bool]()
    with pytest.raises(ValueError, match="no public key"):
        run(asked, started.append)
    assert started == [True]
    assert "nothing is sealed yet" in (stored(settings, asked.id).problem or "")


def test_nothing_is_verified_while_another_process_has_the_lock(settings: Settings) -> None:
    asked, started = request(settings, Options()), list[bool]()
    with verifications.verifying(settings):
        run(asked, started.append)
    assert started == [False]
    with connect(settings) as reader:
        assert verification(reader, asked.id) is None


def test_the_progress_goes_through_all_stages(
    settings: Settings, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "LATE_SECONDS", 10.0**9)  # the catalog is older
    history.run_until("training")
    seen: list[tuple[Stage, int, int | None]] = []
    monkeypatch.setattr(verifying, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(
        verifications,
        "report_progress",
        lambda connection, id, stage, done, total: bool(seen.append((stage, done, total))),
    )
    asked = request(settings, Options(artifacts=True, public_key=str(KEY)))
    run(asked, lambda _: None)
    assert [stage for stage, done, _ in seen if not done] == list(Stage)
    last = history.log.recorder.max_notification_id()
    assert (Stage.REPLAY, last, last) in seen
    assert stored(settings, asked.id).verdict is Verdict.NOT_PROVEN  # nothing is sealed
    with connect(settings) as reader:
        document = json.loads(verifications.report_of(reader, asked.id) or "")
    assert document["seals"]["unsealed"] == document["events"] > 0


def test_the_progress_is_written_at_most_once_a_second(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = 100.0, list[tuple[int, int | None]]()
    monkeypatch.setattr(verifying.time, "monotonic", lambda: now)
    monkeypatch.setattr(
        verifications,
        "report_progress",
        lambda connection, id, stage, done, total: bool(written.append((done, total))),
    )
    with connect(settings) as connection:
        progress = Progress(connection, uuid4())
        progress.begin(Stage.SEALS, 50)
        for done in (1, 2):
            progress.advance(done)
        now += verifying.WRITE_SECONDS
        progress.advance(3)
        progress.advance(60)  # the log grew meanwhile
        progress.begin(Stage.ARTIFACTS, None)
        progress.advance(1)
    assert written == [(0, 50), (3, 50), (50, 50), (0, None)]
