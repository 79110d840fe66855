"""The measurement of the machine's speed, with other programs in place of the probe."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from domain.catalog.machine import Machine
from domain.training.precision import Dtype
from services.scheduler import machine as probing
from services.scheduler.machine import ProbeFailed, measured
from tests.polling import eventually

MACHINE = Machine(host="host", processor="cpu", cores=2, dtype=Dtype.BF16, tflops={})


def probe_with(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(probing, "PROBE", (sys.executable, "-c", program))


async def test_a_cancelled_measurement_ends_its_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Otherwise the end of the scheduler waits for it."""
    file = tmp_path / "pid"
    started = f"import os, pathlib; pathlib.Path({str(file)!r}).write_text(str(os.getpid()))"
    probe_with(monkeypatch, f"{started}\nimport time\ntime.sleep(3600)")
    task = asyncio.ensure_future(measured(MACHINE))
    await asyncio.to_thread(eventually, lambda: file.exists() and file.read_text())
    process = psutil.Process(int(file.read_text()))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert not process.is_running()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise SystemExit('no torch')", "ended with status 1: no torch"),
        ("print('fast')", "Expecting value"),
        ("print('{\"int3\": 1}')", "int3"),
    ],
)
async def test_a_failed_measurement_says_why(
    monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    probe_with(monkeypatch, program)
    with pytest.raises(ProbeFailed, match=reason):
        await measured(MACHINE)
