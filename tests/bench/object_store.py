"""Memory and speed of large files on S3: `python -m tests.bench.object_store [GIB]`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from infrastructure.artifacts.object_stores import PATIENT_SECONDS
from infrastructure.artifacts.store import Artifacts
from tests.object_store import BUCKET, running_object_store

MIB = 1024**2


def transfer(how: str, directory: Path) -> None:
    """Upload or download a directory, and print its speed and the memory of this process."""
    artifacts = Artifacts(f"s3://{BUCKET}/bench", patience_seconds=PATIENT_SECONDS)
    before, began = _peak_mib(), time.monotonic()
    if how == "upload":
        manifest = artifacts.put_directory("big", directory)
    else:
        manifest = artifacts.get_directory("big", directory)
    seconds = time.monotonic() - began
    print(
        f"{how}: {manifest.total_bytes / MIB / 1024:g} GiB in {seconds:.1f} s "
        f"({manifest.total_bytes / seconds / 1e6:.0f} MB/s), peak memory {_peak_mib():.0f} MiB, "
        f"{before:.0f} MiB of which before",
        flush=True,
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(gib: int) -> None:
    """Transfer a file of this size in a process for each direction."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        store, source, copy = (folder / each for each in ("store", "source", "copy"))
        for each in (store, source, copy):
            each.mkdir()
        with (source / "weights").open("wb") as file:
            for _ in range(gib * 1024):
                file.write(os.urandom(MIB))
        with running_object_store(store) as running:
            for how, directory in (("upload", source), ("download", copy)):
                command = [sys.executable, "-m", "tests.bench.object_store", how, str(directory)]
                subprocess.run(command, env=os.environ | running.variables, check=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [how, directory]:
            transfer(how, Path(directory))
        case arguments:
            main(int(arguments[0]) if arguments else 2)
