"""Backups in an S3 bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.backup.creating import prune, verify
from deploy.backup.keys import read_keys
from deploy.backup.stages import Stages
from deploy.backup.target import BackupError, BackupTarget
from infrastructure.artifacts import Artifacts
from services.projector.audit import audit
from tests.deploy.backup.conftest import Backups
from tests.deploy.backup.object_store import BUCKET, running_object_store


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a folder in an empty bucket."""
    with running_object_store(tmp_path) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/ecolink"


@pytest.mark.full
def test_a_backup_in_a_bucket_is_verified_and_restored(backups: Backups, bucket: str) -> None:
    stored = replace(backups, target=BackupTarget(bucket, create=True))
    first = stored.create()
    made = stored.create()
    opened = BackupTarget(bucket)
    assert opened.ids() == [first.id, made.id]
    assert verify(opened, opened.newest(), Stages()) == []
    with opened.locked(), pytest.raises(BackupError, match="Wait for it"), opened.locked():
        pass
    ids, _, _ = prune(opened, keep=1)
    assert ids == [first.id]
    restored = stored.restore(opened.newest(), keys=read_keys(backups.keys, made.id))
    assert restored.events == restored.sealed_events == made.events
    assert audit(stored.elsewhere).differences == []
    damaged = Artifacts(bucket)
    damaged.put(made.artifacts[0].ref, b"changed")
    assert len(verify(opened, made, Stages())) == 1
