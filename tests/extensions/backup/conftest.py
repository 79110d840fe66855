"""A platform with a sealed log and stored artifacts, and an empty place to restore it to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from domain.audit.tree_head import LogKey
from domain.core.event_log import EventLog
from domain.jobs.job import SegmentEnd
from extensions.backup import creating
from extensions.backup.manifest import BackupManifest
from extensions.backup.restoring import Restored, Source, restore_into
from extensions.backup.stages import Stages
from extensions.backup.target import BackupTarget
from infrastructure.accounts.profiles import add_account_name
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import connect
from infrastructure.seals.archive import LastHead, SealArchive, make_key, origin_of
from infrastructure.settings import Settings
from services.sealer.sealer import Sealer
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import History
from tests.conftest import own_database

CHECKPOINT, ADAPTER = "jobs/a/checkpoints/10", "jobs/a/adapter"


@dataclass(frozen=True)
class Backups:
    """A platform, the target of its backups, and an empty place to restore them to."""

    settings: Settings
    history: History
    target: BackupTarget
    keys: Path
    elsewhere: Settings

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.settings.artifacts)

    @property
    def head(self) -> int:
        return self.history.log.recorder.max_notification_id() or 0

    def create(self) -> BackupManifest:
        request = creating.Request(self.target, self.keys, datetime.now(UTC))
        return creating.create(self.settings, request, Stages())

    def restore(self, manifest: BackupManifest, **options: Any) -> Restored:
        source = Source(target=self.target, manifest=manifest, **options)
        return restore_into(self.elsewhere, source, Stages())

    def store(self, ref: str, folder: Path) -> str:
        """Store a directory artifact. Return the hash of its manifest."""
        (folder / ref).mkdir(parents=True)
        (folder / ref / "weights").write_text(ref)
        return self.artifacts.put_directory(ref, folder / ref).sha256

    def seal(self) -> LogKey:
        """Seal all events, as the sealer does. Return the public key."""
        with connect(self.settings) as store:
            key = make_key(self.settings.seal_key_file)
            archive = SealArchive(self.artifacts)
            sealer = Sealer(archive, origin_of(log_identity(store)), key, lambda: datetime.now(UTC))
            sealer.last_head = LastHead.beside(self.settings.seal_key_file)
            sealer.resume(store)
            while sealer.step(store):
                pass
            sealer.export()
            archive.put_public_key(sealer.log_key)
            return sealer.log_key


@pytest.fixture
def backups(
    settings: Settings, servers: Settings, log: EventLog, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backups]:
    """A platform with a registered job, of which every event is sealed."""
    folder = tmp_path_factory.mktemp("backups")  # not in the home
    with own_database(servers, folder / "elsewhere") as elsewhere:
        target = BackupTarget(str(folder / "target"), create=True)
        found = Backups(settings, History(log), target, folder / "keys", elsewhere)
        run_job(found, folder / "files")
        found.seal()
        yield found


def run_job(backups: Backups, folder: Path) -> None:
    """Record the events of a job from approval to registration, and store its artifacts."""
    history = backups.history
    history.open_pool()
    history.open_account(1_000_000)
    with connect(backups.settings) as store:
        add_account_name(store, ACCOUNT_ID, "alice")
        store.execute("INSERT INTO segment_evidence VALUES (%s, 1, 250)", [history.job_id])
    history.approve_job()
    history.allocate_segment(1)
    history.grant_lease(1)
    history.start_pod(1)
    history.start_training(1)
    sha256 = backups.store(CHECKPOINT, folder)
    history.save_checkpoint(1, 10, 40, ref=CHECKPOINT, manifest_sha256=sha256)
    history.bill(1, 240)
    history.complete(1, backups.store(ADAPTER, folder))
    history.end_segment(1, SegmentEnd.COMPLETED, 250)
