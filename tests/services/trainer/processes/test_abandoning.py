"""A leader that hangs because its follower is lost still stores its checkpoint."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.api import PContext

from domain.jobs.lifecycle import SegmentEnd
from domain.training.phases import Phase
from services.trainer import __main__ as program
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease
from services.trainer.processes.agent import ANSWER_SECONDS, extend_agent_timeout
from services.trainer.processes.followers import FollowerLost, Followers
from tests.services.trainer.segments import Run, Trainer

LOST = FollowerLost(1, -signal.SIGKILL, None)


class Ending(Run):
    """A run that notes how its program ends."""

    phase = Phase.TRAINING

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease)
        self.events: list[Any] = []

    def keep_for_operator(self, text: str) -> None: ...

    def finish(self, outcome: SegmentEnd, *_: Any) -> bool:
        self.events.append(outcome)
        return True


@pytest.mark.parametrize(("grace_seconds", "waited"), [(30, 27.0), (0, 0.0)])
def test_an_abandoned_program_stores_its_checkpoint_reports_and_exits(
    trainer: Trainer, grace_seconds: int, waited: float
) -> None:
    """The wait for the checkpoint ends 3 s before the end of the grace period."""
    lease = Lease(SegmentClock(0.0), 1000, grace_seconds)
    run: Any = Ending(lease)
    abandoned = program.Program(
        trainer.spec(), trainer.folder, run, lease, Followers(trainer.folder, 2)
    )
    checkpoints: Any = SimpleNamespace(await_stored=run.events.append)
    abandoned._checkpoints = checkpoints
    trainer.patch.setattr(program.os, "_exit", lambda code: run.events.append(f"exit {code}"))
    abandoned.abandon(LOST)
    assert run.events == [waited, SegmentEnd.CRASHED, "exit 1"]


def test_torchs_agent_waits_for_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, it kills the other ranks 30 s after a rank is lost."""
    monkeypatch.setattr(PContext, "close", PContext.close)  # restores it after the test
    extend_agent_timeout(grace_seconds=70.5)
    closed: list[dict[str, Any]] = []
    outputs = {"_tail_logs": [], "filtered_stdout": None, "filtered_stderr": None}
    ranks: Any = SimpleNamespace(_close=lambda **how: closed.append(how), **outputs)
    PContext.close(ranks)
    PContext.close(ranks, signal.SIGTERM, 30)
    assert closed == [{"death_sig": signal.SIGTERM, "timeout": 71 + ANSWER_SECONDS}] * 2
