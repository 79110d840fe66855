"""Local copies of a remote store's directories, shared by processes."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from infrastructure.artifacts import ArtifactCorrupt, Artifacts
from infrastructure.disk_cache import delete_killed, hold, trim_copies

REF, FILE = "models/tiny/1", "model.safetensors"


@pytest.fixture(params=["memory", "s3"])
def remote(tmp_path: Path, request: pytest.FixtureRequest) -> Artifacts:
    source = tmp_path / "source"
    source.mkdir()
    (source / FILE).write_bytes(b"weights")
    in_memory = request.param == "memory"
    artifacts = Artifacts("memory:///" if in_memory else request.getfixturevalue("s3_url"))
    artifacts.put_directory(REF, source)
    return artifacts


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_directory_is_copied_once(remote: Artifacts, cache: Path) -> None:
    first = remote.local_directory(REF, cache)
    assert (first / FILE).read_bytes() == b"weights"
    remote.delete(f"{REF}/{FILE}")
    assert remote.local_directory(REF, cache) == first
    assert list(cache.iterdir()) == [first]


def test_a_failed_copy_leaves_nothing(remote: Artifacts, cache: Path) -> None:
    remote.put(f"{REF}/{FILE}", b"others")
    with pytest.raises(ArtifactCorrupt):
        remote.local_directory(REF, cache)
    assert list(cache.iterdir()) == []


def test_only_partial_copies_of_killed_processes_are_deleted(
    remote: Artifacts, cache: Path
) -> None:
    killed, begun = (cache / f"{'0' * 64}.{process}" for process in (17, 18))
    for each in (killed, begun):
        each.mkdir(parents=True)
    assert hold(begun) is not None
    foreign = cache / "notes.txt"
    foreign.touch()
    copied = remote.local_directory(REF, cache)
    assert sorted(cache.iterdir()) == sorted([copied, begun, foreign])


def test_a_copy_is_kept_until_it_is_released(remote: Artifacts, cache: Path) -> None:
    copied = remote.local_directory(REF, cache)
    assert trim_copies(cache, 0).count == 0
    remote.local_directory(REF, cache)
    remote.release_directory(copied)
    remote.release_directory(copied)
    assert trim_copies(cache, 0).count == 1
    assert (remote.local_directory(REF, cache) / FILE).read_bytes() == b"weights"


def test_a_copy_is_locked_while_it_is_made(
    remote: Artifacts, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = remote.stream

    def swept_meanwhile(ref: str) -> Iterator[bytes]:
        delete_killed(cache)
        yield from stream(ref)

    monkeypatch.setattr(remote, "stream", swept_meanwhile)
    assert (remote.local_directory(REF, cache) / FILE).read_bytes() == b"weights"


def test_a_copy_is_locked_before_it_is_visible(
    remote: Artifacts, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def seen(partial: Path, target: Path) -> Path:
        renamed = rename(partial, target)
        assert trim_copies(cache, 0).count == 0
        return renamed

    monkeypatch.setattr(Path, "rename", seen)
    remote.local_directory(REF, cache)


def test_a_copy_deleted_meanwhile_is_made_again(
    remote: Artifacts, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.release_directory(remote.local_directory(REF, cache))
    flock = fcntl.flock

    def deleted_meanwhile(handle: int, operation: int) -> None:
        monkeypatch.undo()
        assert trim_copies(cache, 0).count == 1
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", deleted_meanwhile)
    assert (remote.local_directory(REF, cache) / FILE).read_bytes() == b"weights"
