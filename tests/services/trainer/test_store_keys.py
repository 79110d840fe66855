"""The keys of a segment for the artifact store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from obstore.exceptions import PermissionDeniedError

from infrastructure.artifacts.store import Artifacts
from infrastructure.training.reports import SegmentSpec, StoreCredentials
from services.trainer.clock import SegmentClock
from services.trainer.context import LeasedArtifacts
from services.trainer.lease import Lease
from services.trainer.store_keys import RENEWED, StoreKeys
from tests.services.trainer.segments import Trainer

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def issued(hours: int) -> StoreCredentials:
    return StoreCredentials(
        access_key_id=f"key-{hours}",
        secret_access_key="s",
        session_token="t",
        expires_at=NOW + timedelta(hours=hours),
    )


@pytest.fixture
def spec(trainer: Trainer) -> SegmentSpec:
    return trainer.spec().model_copy(update={"store": issued(1)})


def test_all_ranks_use_the_newest_keys(spec: SegmentSpec, tmp_path: Path) -> None:
    leader, follower = StoreKeys(spec, tmp_path), StoreKeys(spec, tmp_path)
    assert follower()["access_key_id"] == "key-1"
    leader.renew(issued(2))
    for each in (leader, follower, StoreKeys(spec, tmp_path)):
        assert each()["access_key_id"] == "key-2"
    assert (tmp_path / RENEWED).stat().st_mode & 0o077 == 0
    assert StoreKeys(spec.model_copy(update={"store": issued(3)}), tmp_path)()["token"] == "t"


def test_a_segment_without_keys_uses_those_of_its_environment(
    spec: SegmentSpec, tmp_path: Path
) -> None:
    assert not StoreKeys(spec.model_copy(update={"store": None}), tmp_path).limited


@pytest.mark.parametrize(
    ("limited", "error"), [(True, FileNotFoundError), (False, PermissionDeniedError)]
)
def test_a_refused_read_counts_as_missing_if_the_keys_are_limited(
    spec: SegmentSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limited: bool,
    error: type[Exception],
) -> None:
    """AWS refuses a read of a missing file if the keys may not list files."""

    def refuse(*_: object) -> bytes:
        raise PermissionDeniedError("403")

    monkeypatch.setattr(Artifacts, "get", refuse)
    monkeypatch.setattr(Artifacts, "stream", refuse)
    keys = StoreKeys(spec, tmp_path) if limited else None
    artifacts = LeasedArtifacts(tmp_path.as_uri(), Lease(SegmentClock(), 60, 0), keys)
    with pytest.raises(error):
        artifacts.get("a")
    with pytest.raises(error):
        list(artifacts.stream("a"))
