"""Tests of the distribution of tests over workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]
CONFTEST = """
from tests.scheduling import ByModule

def pytest_xdist_make_scheduler(config, log):
    return ByModule(config, log)
"""
CRASHING = """
import os, pathlib

def test_crash():
    first = not pathlib.Path("crashed").exists()
    pathlib.Path("crashed").touch()
    if first:
        os._exit(1)

def test_after(): pass
"""


def test_a_crash_of_a_worker_fails_its_test_and_the_others_still_run(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    for number in range(12):
        tests = "\n".join(f"def test_{each}(): pass" for each in range(3))
        (tmp_path / f"test_{number}.py").write_text(tests)
    (tmp_path / "test_crashing.py").write_text(CRASHING)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    # The crashed test runs again after its failure.
    assert "1 failed, 38 passed" in run.stdout
