"""The batch process of a Slurm job, which runs one pod on a node of the cluster.

`python -m extensions.slurm.pod DIRECTORY COMMAND...`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from services.scheduler.launchers import shim
from services.scheduler.launchers.pod_folder import EXIT, STARTED

STARTED_ALREADY = 75
"""Exit code of a batch process that found the pod started by another one."""


def main(directory: Path, command: Sequence[str]) -> int:
    """Run a pod once, under the shim. Return the exit code of its trainer, as a shell would.

    A job that Slurm starts again, or a second job of the same pod, must not run a segment beside
    its successor, so it returns STARTED_ALREADY.
    """
    try:
        (directory / STARTED).mkdir()  # atomic, also on a network file system
    except FileExistsError:
        print("This segment has already started. It does not start again.", flush=True)
        return STARTED_ALREADY
    if failed := shim.main(directory, list(command)):
        return failed
    code: int = json.loads((directory / EXIT).read_text())["exit_code"]
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
