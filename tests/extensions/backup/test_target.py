"""The target of backups: contents under their hash, manifests, and the lock."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from extensions.backup.creating import prune, verify
from extensions.backup.manifest import ArtifactFile, BackupManifest, Blob, EventChunk
from extensions.backup.stages import Stages
from extensions.backup.target import LOCK, BackupError, BackupTarget


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def target(folder: Path) -> BackupTarget:
    return BackupTarget(str(folder), create=True)


def manifest(id: str, *contents: Blob, chunks: tuple[EventChunk, ...] = ()) -> BackupManifest:
    return BackupManifest(
        id=id,
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
        version="0.1.0",
        log_id=UUID(int=1),
        events=0,
        last_event=0,
        shapes={},
        chunks=chunks,
        tables=(),
        artifacts=tuple(ArtifactFile(**each.model_dump(), path=each.ref) for each in contents),
        missing=(),
    )


def stored(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs").rglob("*") if path.is_file()]


def test_equal_contents_are_stored_once(target: BackupTarget, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    blob = target.add_bytes(b"content")
    assert target.add_file(tmp_path / "file") == blob
    assert len(stored(folder)) == 1
    assert b"".join(target.read(blob)) == b"content"
    assert BackupTarget(str(folder)).has(blob)


def test_a_stream_with_another_hash_is_not_stored(target: BackupTarget, folder: Path) -> None:
    blob = Blob(sha256="0" * 64, bytes=7)
    with pytest.raises(ValueError, match="SHA-256"):
        target.add_stream(blob, [b"con", b"tent"])
    assert stored(folder) == []
    assert not target.has(blob)


def test_a_backup_without_a_manifest_is_not_listed(target: BackupTarget) -> None:
    target.add_bytes(b"content")
    assert target.ids() == []
    with pytest.raises(BackupError, match="no complete backup"):
        target.newest()


def test_a_verification_names_damaged_and_missing_contents(
    target: BackupTarget, folder: Path
) -> None:
    good, damaged, lost = (target.add_bytes(name.encode()) for name in ("good", "damaged", "lost"))
    (folder / damaged.ref).write_bytes(b"changed")
    (folder / lost.ref).unlink()
    problems = verify(target, manifest("a", good, damaged, lost), Stages())
    assert len(problems) == 2
    assert damaged.sha256 in problems[0]
    assert lost.sha256 in problems[1]


def test_a_verification_names_chunks_that_do_not_follow_each_other(target: BackupTarget) -> None:
    blob = target.add_bytes(b"events")
    chunks = tuple(
        EventChunk(**blob.model_dump(), first=first, last=last, events=1)
        for first, last in ((1, 10), (10, 20))
    )
    assert len(verify(target, manifest("a", chunks=chunks), Stages())) == 1


def test_pruning_deletes_old_backups_and_the_contents_that_only_they_have(
    target: BackupTarget, folder: Path
) -> None:
    shared, old = target.add_bytes(b"shared"), target.add_bytes(b"old")
    target.put_manifest(manifest("1", shared, old))
    target.put_manifest(manifest("2", shared))
    assert prune(target, 1) == (["1"], 1, old.bytes)
    assert target.ids() == ["2"]
    assert stored(folder) == [folder / shared.ref]


def test_a_damaged_manifest_is_named_and_nothing_is_pruned(
    target: BackupTarget, folder: Path
) -> None:
    blob = target.add_bytes(b"content")
    target.put_manifest(manifest("1", blob))
    (folder / "backups" / "1.json").write_text("{")
    with pytest.raises(BackupError, match=r"backups/1\.json"):
        prune(target, 1)
    assert len(stored(folder)) == 1


def test_one_command_at_a_time_changes_a_target(target: BackupTarget, folder: Path) -> None:
    with target.locked(), pytest.raises(BackupError, match="Wait for it"):
        with BackupTarget(str(folder)).locked():
            pass
    assert not (folder / LOCK).exists()


def test_the_lock_of_a_killed_command_is_taken_over(target: BackupTarget, folder: Path) -> None:
    with target.locked():
        content = (folder / LOCK).read_text()
    (folder / LOCK).write_text(content.replace('"born":"', '"born":"0'))
    with target.locked():
        pass
    assert not (folder / LOCK).exists()


def test_a_missing_directory_is_not_created_by_a_reader(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="does not exist"):
        BackupTarget(str(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


def test_a_directory_that_others_can_read_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o755)
    open_to_all.chmod(0o755)
    with pytest.raises(BackupError, match="chmod 700"):
        BackupTarget(str(open_to_all), create=True)
    made = tmp_path / "new"
    BackupTarget(str(made), create=True)
    assert made.stat().st_mode & 0o077 == 0
