"""The machine of CPU-backed segments, with its processor, dtype and measured speed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import re
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path

from domain.catalog.machine import Machine
from domain.training.precision import Dtype

CPUINFO = Path("/proc/cpuinfo")
NATIVE_BF16 = frozenset({"amx_bf16", "avx512_bf16"})
"""Flags of processors that multiply bf16 natively. Others emulate bf16, which is slower."""

PROBE = (sys.executable, "-m", "services.trainer.speed_probe")
PROBE_SECONDS = 120.0  # mostly for the import of torch on a busy machine


class ProbeFailed(Exception):
    """Measuring the speed of the machine failed."""


def this_machine() -> Machine | None:
    """Return this machine with its fastest dtype, without its speed; None if unknown."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        logging.getLogger("launcher").warning("cannot identify this processor: %s", error)
        return None
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    native = flags is not None and not NATIVE_BF16.isdisjoint(flags[1].split())
    return Machine(
        host=platform.node(),
        processor=name[1].strip() if name else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        dtype=Dtype.BF16 if native else Dtype.FLOAT32,
        tflops={},
    )


async def measured(machine: Machine) -> Machine:
    """Measure the speed of a machine for a few seconds. Return the machine with its TFLOPS.

    Raise ProbeFailed if the measurement fails. If the caller is cancelled, the measurement ends.
    """
    command = " ".join(PROBE)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            status, output, errors = await _run(*PROBE)
    except (OSError, TimeoutError) as error:
        raise ProbeFailed(f"{command}: {error or 'it takes too long'}") from error
    if status != 0:
        raise ProbeFailed(f"{command} ended with status {status}: {errors.decode().strip()}")
    try:
        return Machine.model_validate(machine.model_dump() | {"tflops": json.loads(output)})
    except ValueError as error:
        raise ProbeFailed(f"{command}: {error}") from error


async def _run(*command: str) -> tuple[int, bytes, bytes]:
    """Return the exit status and the outputs of a command. Kill it if the caller is cancelled."""
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output, errors
