"""Ranks of a segment, in processes forked from one that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from infrastructure.settings import Settings
from services.trainer.processes.followers import ERROR_FILE, follow
from tests.services.trainer.segments import Run, Segment

RESULT_SECONDS = 180

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["services.trainer.segment"])


def run_ranks(segment: Segment, prepare: Callable[[], None] | None = None) -> list[Run]:
    """Run ranks of one thread each, with the base in float32, and return their runs.

    After a stop, only rank 0 has one. `prepare`, a function of a module, is called in each rank.
    """
    segment.directory.mkdir()
    children, results, runs = [], [], []
    for rank in range(segment.spec.gpu_count):
        result, sender = processes.Pipe(duplex=False)
        child = processes.Process(target=_rank, args=(rank, segment, prepare, sender), daemon=True)
        child.start()
        sender.close()
        children.append(child)
        results.append(result)
    try:
        for result in results:
            assert result.poll(RESULT_SECONDS)
            runs.append(result.recv())
            if runs[0].outcome is not None:
                break
        return runs
    finally:
        for child in children:
            child.kill()
            child.join()


def follow_alone(spec_path: Path, settings: Settings) -> int:
    """Run rank 1 of two without a rank 0, and return its exit code."""
    child = processes.Process(target=_follow, args=(spec_path, settings), daemon=True)
    child.start()
    child.join(RESULT_SECONDS)
    assert child.exitcode is not None
    return child.exitcode


def _follow(spec_path: Path, settings: Settings) -> None:
    _set_rank(1, 2)
    os.environ[ERROR_FILE] = str(spec_path.with_name("error.json"))
    sys.exit(follow(spec_path, settings))


def _set_rank(rank: int, count: int) -> None:
    """Set the environment that torch's launcher sets."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in own.items()}, OMP_NUM_THREADS="1")


def _rank(
    rank: int, segment: Segment, prepare: Callable[[], None] | None, result: Connection
) -> None:
    import torch

    from services.trainer import segment as phases
    from services.trainer.processes.ranks import Ranks

    _set_rank(rank, segment.spec.gpu_count)
    if prepare is not None:
        prepare()
    torch.set_num_threads(1)
    phases.choose_dtype = lambda device: torch.float32
    try:
        run = segment.run(Ranks.join(segment.directory / "rendezvous", RESULT_SECONDS))
    except Exception as error:  # noqa: BLE001  # the test looks at it
        traceback.print_exc()
        run = Run(None)  # type: ignore[arg-type]
        run.error = repr(error)
    run.lease = None  # type: ignore[assignment]  # it has a lock, which cannot be sent
    result.send(run)
