"""Local copies of a remote store's directories, shared by processes."""

from __future__ import annotations

import fcntl
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infrastructure.artifacts import disk_cache
from infrastructure.artifacts.disk_cache import delete_damaged, delete_killed, hold, trim_copies
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts, Manifest

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


def test_a_copy_is_kept_until_each_user_releases_it(remote: Artifacts, cache: Path) -> None:
    copied = remote.local_directory(REF, cache)
    assert trim_copies(cache, 0).count == 0
    remote.local_directory(REF, cache)
    remote.release_directory(copied)
    assert trim_copies(cache, 0).count == 0
    remote.release_directory(copied)
    assert trim_copies(cache, 0).count == 1
    remote.release_directory(copied)
    assert (remote.local_directory(REF, cache) / FILE).read_bytes() == b"weights"


def test_a_user_of_a_deleted_copy_does_not_release_its_successor(
    remote: Artifacts, cache: Path
) -> None:
    damaged = remote.local_directory(REF, cache)
    delete_damaged(damaged, damaged.stat())
    copied = remote.local_directory(REF, cache)
    assert copied == damaged
    remote.release_directory(damaged)
    assert trim_copies(cache, 0).count == 0
    remote.release_directory(copied)
    assert trim_copies(cache, 0).count == 1


def test_threads_share_one_copy(
    remote: Artifacts, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, stream, reads, fetched = remote.manifest, remote.stream, [], []
    both = threading.Event()

    def read(prefix: str) -> Manifest:
        reads.append(threading.get_ident())
        if len(set(reads)) == 2:
            both.set()
        return manifest(prefix)

    def fetch(ref: str) -> Iterator[bytes]:
        """Fetch only when the other thread also needs the copy."""
        assert both.wait(60)
        fetched.append(ref)
        yield from stream(ref)

    monkeypatch.setattr(remote, "manifest", read)
    monkeypatch.setattr(remote, "stream", fetch)
    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(remote.local_directory, REF, cache) for _ in range(2)]
        first, second = (each.result(60) for each in found)
    assert first == second
    assert fetched == [f"{REF}/{FILE}"]
    assert list(cache.iterdir()) == [first]
    remote.release_directory(first)
    assert trim_copies(cache, 0).count == 0


def test_an_eviction_does_not_delete_a_new_copy(
    remote: Artifacts, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread of the process copies the model before the evicted files are deleted."""
    remote.release_directory(remote.local_directory(REF, cache))
    delete, stream, evicted = shutil.rmtree, remote.stream, []
    with monkeypatch.context() as patch:
        patch.setattr(disk_cache.shutil, "rmtree", lambda path, **_: evicted.append(path))
        assert trim_copies(cache, 0).count == 1

    def deleted_meanwhile(ref: str) -> Iterator[bytes]:
        yield from stream(ref)
        for path in evicted:
            delete(path, ignore_errors=True)

    monkeypatch.setattr(remote, "stream", deleted_meanwhile)
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
