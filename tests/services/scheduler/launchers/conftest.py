"""A driver that says what a test wants."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvidiaSmi:
    """Answers nothing yet: a machine without a driver."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return FakeNvidiaSmi(folder)
