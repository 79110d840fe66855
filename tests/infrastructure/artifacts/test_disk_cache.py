"""Eviction from the disk cache."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infrastructure.artifacts.disk_cache import (
    Deleted,
    delete_damaged,
    hold,
    trim_copies,
    trim_kernels,
)

OLD, NEW, OTHER = "0" * 64, "1" * 64, "2" * 64
KEY = "c" + "2" * 51
KERNEL = f"22/{KEY}.main.so"
GRAPH = f"fxgraph/zu/f{'7' * 51}/{'a' * 51}"
LOCK = f"locks/{KEY}.lock"

HOLDER = """
import sys
from pathlib import Path
from infrastructure.artifacts.disk_cache import hold
hold(Path(sys.argv[1]))
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Copies of 100 bytes each, used one after the other."""
    folder = tmp_path / "models"
    for order, name in enumerate((OLD, NEW, OTHER)):
        (folder / name / "tokenizer").mkdir(parents=True)
        (folder / name / "weights").write_bytes(b"w" * 90)
        (folder / name / "tokenizer" / "words").write_bytes(b"w" * 10)
        os.utime(folder / name, (1000 + order, 1000 + order))
    return folder


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """Files of 100 bytes each, used one after the other, and their lock."""
    folder = tmp_path / "compiled"
    for order, name in enumerate((KERNEL, GRAPH)):
        written(folder / name, b"k" * 100, 1000 + order)
    written(folder / LOCK, b"", 1001)
    return folder


def written(path: Path, content: bytes, used: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (used, used))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_entries_within_the_limit_stay(copies: Path, kernels: Path, tmp_path: Path) -> None:
    assert trim_copies(copies, 300) == Deleted(0, 0, 300)
    assert trim_kernels(kernels, 200) == Deleted(0, 0, 200)
    assert names(copies) == {OLD, NEW, OTHER}
    assert files(kernels) == {KERNEL, GRAPH, LOCK}
    assert trim_copies(tmp_path / "none", 0) == trim_kernels(tmp_path / "none", 0) == Deleted()


def test_a_damaged_copy_is_deleted_even_in_use_but_never_its_successor(copies: Path) -> None:
    copy = copies / OLD
    seen, handle = copy.stat(), hold(copy)
    assert handle is not None
    delete_damaged(copy, seen)
    assert names(copies) == {NEW, OTHER}
    delete_damaged(copy, seen)
    copy.mkdir()
    delete_damaged(copy, seen)
    assert names(copies) == {OLD, NEW, OTHER}
    os.close(handle)


def test_least_recently_used_copies_are_evicted(copies: Path) -> None:
    handle = hold(copies / OLD)
    assert handle is not None
    os.close(handle)  # it was used just now
    assert trim_copies(copies, 250) == Deleted(1, 100, 200)
    assert names(copies) == {OLD, OTHER}


def test_a_copy_in_use_is_kept_and_counts_as_recent(copies: Path) -> None:
    handle = hold(copies / OLD)
    assert handle is not None
    os.utime(copies / OLD, (1000, 1000))  # it began long ago
    assert trim_copies(copies, 0) == Deleted(2, 200, 100)
    assert names(copies) == {OLD}
    os.close(handle)
    assert (copies / OLD).stat().st_mtime > 1000
    assert trim_copies(copies, 0) == Deleted(1, 100, 0)


def test_a_killed_process_holds_no_lock(copies: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(copies / OLD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as user:
        assert user.stdout is not None
        user.stdout.readline()
        assert trim_copies(copies, 0).count == 2
        user.kill()
        user.wait()
    assert trim_copies(copies, 0).count == 1


def test_a_copy_being_deleted_is_not_found(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def deleted_meanwhile(handle: int, operation: int) -> None:
        """Delete the copy between the check and the lock."""
        monkeypatch.undo()
        assert trim_copies(copies, 250).count == 1
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", deleted_meanwhile)
    assert hold(copies / OLD) is None
    assert hold(copies / "none") is None


def test_a_copy_that_disappears_does_not_stop_an_eviction(
    copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def evicted_meanwhile(handle: int, operation: int) -> None:
        monkeypatch.undo()
        shutil.rmtree(copies / NEW)
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", evicted_meanwhile)
    assert trim_copies(copies, 0).count == 2
    assert names(copies) == set()


def test_only_partial_copies_are_deleted(copies: Path) -> None:
    copied, foreign = copies / f"{NEW}.17", copies / "backup.18"
    for each in (copies / f"{NEW}.18", copied, foreign, copies / "notes"):
        each.mkdir()
    assert hold(copied) is not None
    strangers = {"3" * 64, f"{'3' * 64}.18"}
    for name in strangers:
        (copies / name).touch()
    assert trim_copies(copies, 0) == Deleted(3, 300, 0)
    assert names(copies) == {copied.name, foreign.name, "notes", *strangers}


def test_without_file_locks_nothing_is_evicted(
    copies: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    assert hold(copies / OLD) is not None
    assert trim_copies(copies, 0) == Deleted(0, 0, 300)
    assert trim_kernels(kernels, 0) == Deleted(0, 0, 200)


def test_least_recently_used_kernels_are_evicted(kernels: Path) -> None:
    os.utime(kernels / KERNEL, (2000, 1000))  # read later than the graph
    assert trim_kernels(kernels, 150) == Deleted(1, 100, 100)
    assert files(kernels) == {KERNEL, LOCK}
    assert not (kernels / GRAPH).parent.exists()


def test_no_kernel_is_evicted_during_compilation(kernels: Path) -> None:
    handle = hold(kernels)
    assert handle is not None
    assert trim_kernels(kernels, 0) == Deleted(0, 0, 200)
    os.close(handle)
    assert trim_kernels(kernels, 0) == Deleted(2, 200, 0)


def test_foreign_files_stay(kernels: Path, tmp_path: Path) -> None:
    torn, foreign = "22/.123.456.tmp", {"README", f"{KEY}.py", "22/notes.txt", "fxgraph/README"}
    for name in (torn, *foreign):
        written(kernels / name, b"f" * 100, 1)
    target = tmp_path / "target"
    target.write_bytes(b"t" * 100)
    (kernels / "22" / KEY).symlink_to(target)
    assert trim_kernels(kernels, 0) == Deleted(3, 300, 0)
    assert files(kernels) - {LOCK, f"22/{KEY}"} == foreign
    assert target.exists()
