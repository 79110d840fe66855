"""A fake nvidia-smi."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.scheduler.launchers import local, warm_pool


class FakeNvidiaSmi:
    """An executable on the PATH that prints a listing and records its arguments."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.calls = folder / "calls"

    def answers(self, listing: str, exit_code: int = 0) -> None:
        """Set the output and the exit code."""
        (self._folder / "listing").write_text(listing)
        script = self._folder / "nvidia-smi"
        script.write_text(
            f'#!/bin/sh\necho "$@" >> {self.calls}\ncat {self._folder}/listing\nexit {exit_code}\n'
        )
        script.chmod(0o755)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow slow process starts and low memory."""
    monkeypatch.setenv("ECOLINK_LAUNCH_SECONDS", "60")
    monkeypatch.setattr(local, "FIRST_SECONDS", 60.0)
    monkeypatch.setattr(local, "WARM_START_SECONDS", 30.0)
    monkeypatch.setattr(warm_pool, "LEAST_MEMORY_BYTES", 0)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvidiaSmi:
    """A machine without a driver, until the test sets an answer."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return FakeNvidiaSmi(folder)
