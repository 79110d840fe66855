"""The trainer's report in the artifact store."""

from __future__ import annotations

from pathlib import Path

import pytest

from infrastructure.artifacts.store import Artifacts
from infrastructure.training.reports import stored_report_ref
from services.trainer import stored_report
from services.trainer.stored_report import StoredReport
from tests.services.scheduler.launchers.test_launcher import spec

REF = stored_report_ref(spec().checkpoint_prefix)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts((tmp_path / "store").as_uri())


@pytest.fixture
def stored(artifacts: Artifacts, tmp_path: Path) -> StoredReport:
    return StoredReport((tmp_path / "store").as_uri(), spec())


def test_the_newest_report_is_stored(stored: StoredReport, artifacts: Artifacts) -> None:
    for n in range(20):
        stored.put(b"%d" % n)
    assert stored.await_stored(60)
    assert artifacts.get(REF) == b"19"
    stored.put(b"20")
    assert stored.await_stored(60)
    assert artifacts.get(REF) == b"20"


def test_a_report_survives_an_unreachable_store(
    stored: StoredReport, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, failures = Artifacts.put, 0

    def fail_twice(self: Artifacts, ref: str, content: bytes) -> None:
        nonlocal failures
        if failures < 2:
            failures += 1
            raise OSError("unreachable")
        put(self, ref, content)

    monkeypatch.setattr(stored_report, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(Artifacts, "put", fail_twice)
    stored.put(b"{}")
    assert stored.await_stored(60)
    assert failures == 2
    assert artifacts.get(REF) == b"{}"


def test_a_wait_for_an_unreachable_store_ends(
    stored: StoredReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Artifacts, ref: str, content: bytes) -> None:
        raise OSError("unreachable")

    monkeypatch.setattr(Artifacts, "put", fail)
    stored.put(b"{}")
    assert not stored.await_stored(0.01)
