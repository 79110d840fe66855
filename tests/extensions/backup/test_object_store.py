"""Backups in an S3 bucket."""

from __future__ import annotations

from dataclasses import replace

import pytest

from extensions.backup.creating import prune, verify
from extensions.backup.keys import read_keys
from extensions.backup.stages import Stages
from extensions.backup.target import BackupError, BackupTarget
from infrastructure.artifacts.store import Artifacts
from services.projector.audit import audit
from tests.extensions.backup.conftest import Backups

pytestmark = pytest.mark.full


def test_a_backup_in_a_bucket_is_verified_and_restored(backups: Backups, s3_url: str) -> None:
    stored = replace(backups, target=BackupTarget(s3_url, create=True))
    first = stored.create()
    made = stored.create()
    opened = BackupTarget(s3_url)
    assert opened.ids() == [first.id, made.id]
    assert verify(opened, opened.newest(), Stages()) == []
    with opened.locked(), pytest.raises(BackupError, match="Wait for it"), opened.locked():
        pass
    ids, _, _ = prune(opened, keep=1)
    assert ids == [first.id]
    restored = stored.restore(opened.newest(), keys=read_keys(backups.keys, made.id))
    assert restored.events == restored.sealed_events == made.events
    assert audit(stored.elsewhere).differences == []
    damaged = Artifacts(s3_url)
    damaged.put(made.artifacts[0].ref, b"changed")
    assert len(verify(opened, made, Stages())) == 1
