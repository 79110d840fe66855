"""A trainer that is started ahead: imports done, the expected base loaded, waiting for a segment.

It is a process of its own from the start and no fork of a prepared one: the thread pools of libgomp
and the state of CUDA do not survive a fork. CUDA is left alone until the segment's GPUs are known.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from infrastructure.artifacts import Artifacts
from infrastructure.code_version import revision
from infrastructure.settings import Settings
from infrastructure.warm_start import EXPECTED_BASE, READY, ExpectedBase, WarmStart
from services.model_libraries import lean_imports

if TYPE_CHECKING:
    from services.trainer.processes.warm_base import WarmBase

NICENESS = 19
"""Of what is prepared: nobody's segment pays for it with its time."""


def await_warm_start(directory: Path, settings: Settings) -> tuple[WarmStart, WarmBase | None]:
    """Prepare, say so in the directory, and wait; exits if there is no segment to come."""
    prepared: list[WarmBase | None] = []
    # In a thread, for a niceness is a thread's and could not be taken back without privilege.
    preparing = threading.Thread(target=lambda: prepared.append(_prepare(directory, settings)))
    preparing.start()
    preparing.join()
    if not prepared:
        sys.exit("the training stack cannot be imported")
    # The collector would look at all that was imported once more, 0.13 s, in the segment's time.
    gc.collect()
    gc.freeze()
    (directory / READY).touch()
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        sys.exit(0)
    handed = WarmStart.model_validate_json(line)
    os.environ.update(handed.environment)
    _redirect(handed.directory / "trainer.log")
    return handed, prepared[0]


def _prepare(directory: Path, settings: Settings) -> WarmBase | None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    lean_imports()
    import services.trainer.segment  # noqa: F401  # with all that it imports
    from services.trainer.peak_memory import note_program
    from services.trainer.processes.warm_base import expected

    note_program()
    revision()  # of the code as it was imported, and not as it is when the segment comes
    try:
        base = ExpectedBase.model_validate_json((directory / EXPECTED_BASE).read_bytes())
        return expected(Artifacts(settings.artifacts), base)
    except FileNotFoundError:  # nothing is expected, or the base is gone
        return None
    except Exception:  # noqa: BLE001  # the segment that needs it will say what is wrong with it
        traceback.print_exc()
        return None


def _redirect(log: Path) -> None:
    """From now on what is printed goes to the pod's log."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for output in (1, 2):
        os.dup2(file, output)
    os.close(file)
