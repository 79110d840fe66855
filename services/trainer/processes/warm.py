"""Warm start: a trainer imports torch and loads the expected base model before its segment.

It is a separate process, because libgomp's thread pools and CUDA's state do not survive a fork. It
does not initialize CUDA until the GPUs of the segment are known.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.exchange import read
from infrastructure.process.code_version import revision
from infrastructure.settings import Settings
from infrastructure.training.warm_start import EXPECTED_BASE, READY, ExpectedBase, WarmStart
from services.model_libraries import lean_imports

if TYPE_CHECKING:
    from services.trainer.processes.warm_base import WarmBase

NICENESS = 19
"""Niceness of the preparation, so that it does not slow down running segments."""


def await_warm_start(directory: Path, settings: Settings) -> tuple[WarmStart, WarmBase | None]:
    """Prepare, report ready, and wait for a segment. Exit if stdin closes without one."""
    prepared: list[WarmBase | None] = []
    # In a thread, because lowering the niceness of a thread again requires privileges.
    preparing = threading.Thread(target=lambda: prepared.append(_prepare(directory, settings)))
    preparing.start()
    preparing.join()
    if not prepared:
        sys.exit("The training stack cannot be imported.")
    # Otherwise, the garbage collector would scan all imports in billed time (0.13 s).
    gc.collect()
    gc.freeze()
    (directory / READY).touch()
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        sys.exit(0)
    start = read(WarmStart, line)
    os.environ.update(start.environment)
    _redirect_output(start.directory / "trainer.log")
    return start, prepared[0]


def _prepare(directory: Path, settings: Settings) -> WarmBase | None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    lean_imports()
    import services.trainer.segment  # noqa: F401  # and everything that it imports
    from services.trainer.peak_memory import record_program_memory
    from services.trainer.processes.warm_base import load_expected

    record_program_memory()
    revision()  # cached now, because the code on disk may change later
    try:
        base = read(ExpectedBase, (directory / EXPECTED_BASE).read_bytes())
        return load_expected(Artifacts(settings.artifacts), base)
    except FileNotFoundError:  # no base model is expected, or it was deleted
        return None
    except Exception:  # noqa: BLE001  # the segment that needs it reports the error
        traceback.print_exc()
        return None


def _redirect_output(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for output in (1, 2):
        os.dup2(file, output)
    os.close(file)
