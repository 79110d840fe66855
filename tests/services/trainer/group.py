"""A segment in several ranks, in processes forked from one that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from infrastructure.artifacts import Artifacts
from infrastructure.reports import SegmentSpec
from infrastructure.settings import Settings
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease, SegmentStopped
from services.trainer.processes.followers import ERROR_FILE, follow
from tests.services.trainer.notes import Notes, on_micro_batch

RESULT_SECONDS = 180

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["services.trainer.segment"])


def run_ranks(
    spec: SegmentSpec,
    store: Path,
    scratch: Path,
    stop_after: int | None = None,
    stop_in: int | None = None,
    prepare: Callable[[], None] | None = None,
) -> list[Notes]:
    """Run ranks of one thread each, with the base in float32; return their notes.

    After a stop only rank 0 has notes. `stop_in` counts rank 0's micro-batches. `prepare`, a
    function of a module, is called in each rank first.
    """
    scratch.mkdir()
    ends, children = [], []
    for rank in range(spec.gpu_count):
        end, other = processes.Pipe(duplex=False)
        arguments = (rank, spec, store, scratch, stop_after, stop_in, prepare, other)
        child = processes.Process(target=_rank, args=arguments, daemon=True)
        child.start()
        other.close()
        ends.append(end)
        children.append(child)
    try:
        notes = []
        for end in ends:
            assert end.poll(RESULT_SECONDS)
            notes.append(end.recv())
            if "outcome" in notes[0].fields:
                break
        return notes
    finally:
        for child in children:
            child.kill()
            child.join()


def follow_alone(spec_path: Path, settings: Settings) -> int:
    """Run rank 1 without a rank 0; return its exit code."""
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
    rank: int,
    spec: SegmentSpec,
    store: Path,
    scratch: Path,
    stop_after: int | None,
    stop_in: int | None,
    prepare: Callable[[], None] | None,
    result: Connection,
) -> None:
    import torch

    from services.trainer import segment, training
    from services.trainer.checkpoint_writer import Checkpoints
    from services.trainer.context import Context
    from services.trainer.processes.ranks import Ranks

    _set_rank(rank, spec.gpu_count)
    if prepare is not None:
        prepare()
    torch.set_num_threads(1)
    segment.choose_dtype = lambda device: torch.float32
    ranks = Ranks.join(scratch / "rendezvous", RESULT_SECONDS)
    lease = Lease(SegmentClock(0.0), spec.paid_seconds, spec.grace_seconds)
    notes: Any = Notes(lease, stop_after if ranks.leads else None, None)
    if ranks.leads and stop_in is not None:
        training.loss_sum = on_micro_batch(training.loss_sum, stop_in, lease.request_stop)
    artifacts = Artifacts(store.as_uri())
    try:
        context = Context(spec, artifacts, scratch, scratch / "cache", notes, lease, ranks)
        segment.run(context, Checkpoints(context))
    except SegmentStopped as stopped:
        notes.fields["outcome"] = stopped.outcome
    notes.lease = None  # it has a lock, which cannot be sent
    result.send(notes)
