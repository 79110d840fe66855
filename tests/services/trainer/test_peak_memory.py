"""The peak memory of a trainer."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from services.trainer import peak_memory
from services.trainer.peak_memory import PeakMemory, record_program_memory, reset_peak
from tests.services.trainer.segments import Trainer

CPU = torch.device("cpu")

MEBIBYTE = 1024**2


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that takes the place of this process's status in proc(5)."""
    path = tmp_path / "status"
    monkeypatch.setattr(peak_memory, "STATUS", path)
    monkeypatch.setattr(peak_memory, "_program_bytes", None)
    return path


def write(status: Path, current: int, peak: int) -> None:
    """Write the current and the peak resident set, in KiB."""
    status.write_text(f"Name:\tpython\nVmHWM:\t{peak:8} kB\nVmRSS:\t{current:8} kB\nThreads:\t1\n")


def test_the_peak_is_without_the_memory_of_the_program(status: Path) -> None:
    write(status, current=1_000, peak=1_200)
    record_program_memory()
    write(status, current=1_500, peak=4_000)
    assert PeakMemory(CPU).bytes == 3_000 * 1024


def test_only_the_first_record_of_the_program_counts(status: Path) -> None:
    """A warm trainer records it before it loads a base, and the segment records it again."""
    write(status, current=1_000, peak=1_200)
    record_program_memory()
    write(status, current=3_000, peak=4_000)
    record_program_memory()
    assert PeakMemory(CPU).bytes == 3_000 * 1024


def test_a_peak_below_the_memory_of_the_program_is_zero(status: Path) -> None:
    write(status, current=4_000, peak=4_000)
    record_program_memory()
    write(status, current=1_000, peak=1_200)
    assert PeakMemory(CPU).bytes == 0


@contextmanager
def allocated(size: int) -> Iterator[None]:
    """Allocate memory that this process has not had before, and return it to the kernel."""
    with mmap.mmap(-1, size) as memory:
        memory.write(b"x" * size)
        yield


def test_the_peak_stays_after_memory_is_freed_until_it_is_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peak_memory, "_program_bytes", 0)
    reset_peak()
    before = PeakMemory(CPU).bytes
    with allocated(256 * MEBIBYTE):
        during = PeakMemory(CPU).bytes
    assert during > before + 100 * MEBIBYTE
    assert PeakMemory(CPU).bytes >= during
    reset_peak()
    assert PeakMemory(CPU).bytes < during - 100 * MEBIBYTE


def test_it_is_reported_during_and_after_the_run(trainer: Trainer) -> None:
    """All of this process counts: a segment may fit in memory that an earlier test has freed."""
    trainer.patch.setattr(peak_memory, "_program_bytes", 0)
    run = trainer.train()
    peaks = [each.peak_memory_bytes or 0 for each in run.steps]
    assert all(before <= after for before, after in pairwise(peaks))
    assert peaks[0] > 10 * MEBIBYTE  # the kernel may reclaim pages of the libraries
    assert run.fields["peak_memory_bytes"] >= peaks[-1]
