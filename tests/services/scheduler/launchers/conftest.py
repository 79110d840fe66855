"""A driver that says what a test wants."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.scheduler.launchers import local, warm_pool


class FakeNvidiaSmi:
    """An executable on the PATH that prints a listing and notes what it was asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.calls = folder / "calls"

    def answers(self, listing: str, exit_code: int = 0) -> None:
        """From now on the driver says this."""
        (self._folder / "listing").write_text(listing)
        script = self._folder / "nvidia-smi"
        script.write_text(
            f'#!/bin/sh\necho "$@" >> {self.calls}\ncat {self._folder}/listing\nexit {exit_code}\n'
        )
        script.chmod(0o755)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine has time to start a process, and may be short of memory."""
    monkeypatch.setattr(local, "SHIM_START_SECONDS", 60.0)
    monkeypatch.setattr(local, "WARM_START_SECONDS", 30.0)
    monkeypatch.setattr(warm_pool, "LEAST_MEMORY_BYTES", 0)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvidiaSmi:
    """Answers nothing yet: a machine without a driver."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return FakeNvidiaSmi(folder)
