"""A leader that hangs because its follower is lost still stores its checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.api import PContext

from domain.jobs.lifecycle import SegmentEnd
from domain.training.phases import Phase
from infrastructure.artifacts import Artifacts
from infrastructure.reports import SegmentSpec
from infrastructure.settings import Settings
from services.trainer import __main__ as program
from services.trainer import training
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease
from services.trainer.processes.agent import ANSWER_SECONDS, extend_agent_timeout
from services.trainer.processes.followers import FollowerLost, Followers
from tests.polling import eventually
from tests.services.trainer.conftest import SpecMaker
from tests.services.trainer.notes import Notes

LOST = FollowerLost(1, -signal.SIGKILL, None)


class Reporting(Notes):
    """Notes of a program, in one list with its end."""

    def __init__(self, lease: Lease, events: list[str]) -> None:
        super().__init__(lease, None, None)
        self.events, self.phase = events, Phase.TRAINING

    def saved(self, checkpoint: Any) -> None:
        self.events.append(f"saved step {checkpoint.step}")

    def keep_for_operator(self, text: str) -> None: ...

    def finish(self, outcome: SegmentEnd, *_: Any) -> bool:
        self.events.append(outcome.value)
        return True


class Hanging:
    """A program whose store waits for `release`, and whose second step never ends."""

    def __init__(self, spec: SegmentSpec, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.storing, self.release, self.over = Event(), Event(), Event()
        lease = Lease(SegmentClock(0.0), spec.paid_seconds, spec.grace_seconds)
        path = directory / "pod" / "spec.json"
        path.parent.mkdir()
        self.notes: Any = Reporting(lease, self.events)
        self._program = program.Program(
            spec, path.parent, self.notes, lease, Followers(path.parent, 1)
        )
        self._settings = Settings(
            home=directory / "home", artifacts_url=(directory / "artifacts").as_uri()
        )
        self._patch(patch)
        self.training = Thread(target=self._program.run, args=(self._settings,))

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        take, loss_sum, batches = Artifacts.take_directory, training.loss_sum, count(1)

        def slow_take(*arguments: Any) -> Any:
            self.storing.set()
            assert self.release.wait(60)
            return take(*arguments)

        def hanging_loss(*arguments: Any) -> Any:
            if next(batches) > 1:
                assert self.over.wait(60)
                raise RuntimeError("the test is over")
            return loss_sum(*arguments)

        patch.setattr(Artifacts, "take_directory", slow_take)
        patch.setattr(training, "loss_sum", hanging_loss)
        patch.setattr("services.trainer.context.lean_imports", lambda **_: None)
        patch.setattr(program.os, "_exit", lambda code: self.events.append(f"exit {code}"))

    def abandon(self) -> Thread:
        """Abandon the program like the watch of the followers."""
        abandoning = Thread(target=self._program.abandon, args=(LOST,))
        abandoning.start()
        return abandoning


@pytest.fixture
def hang(tmp_path: Path, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make a program hang while its first checkpoint is stored."""
    begun: list[Hanging] = []

    def hang(**fields: Any) -> Hanging:
        spec = make_spec({"save_steps": 1, "gradient_accumulation": 1}, **fields)
        hanging = Hanging(spec, tmp_path, monkeypatch)
        begun.append(hanging)
        hanging.training.start()
        assert hanging.storing.wait(60)
        return hanging

    yield hang
    for each in begun:
        each.release.set()
        each.over.set()
        each.training.join(60)


def test_a_checkpoint_being_stored_survives_a_lost_rank(hang) -> None:
    hanging = hang()
    abandoning = hanging.abandon()
    eventually(lambda: any("step 1" in line for line in hanging.notes.lines))
    assert hanging.events == []
    hanging.release.set()
    abandoning.join(60)
    assert hanging.events == ["saved step 1", "crashed", "exit 1"]


def test_a_lost_segment_waits_at_most_the_grace(hang) -> None:
    hanging = hang(grace_seconds=0)
    hanging.abandon().join(60)
    assert hanging.events == ["crashed", "exit 1"]
    assert any("step 1" in line for line in hanging.notes.warnings)


def test_a_lost_rank_ends_an_idle_leader_at_once(hang) -> None:
    hanging = hang()
    hanging.release.set()
    eventually(lambda: hanging.events == ["saved step 1"])
    hanging.abandon().join(60)
    assert hanging.events == ["saved step 1", "crashed", "exit 1"]


def test_torchs_agent_waits_for_the_leader(monkeypatch) -> None:
    """By default it kills the other ranks 30 s after a rank is lost."""
    monkeypatch.setattr(PContext, "close", PContext.close)  # to be put back
    extend_agent_timeout(grace_seconds=70.5)
    closed: list[dict[str, Any]] = []
    context: Any = SimpleNamespace(
        _close=lambda **how: closed.append(how),
        _tail_logs=[],
        filtered_stdout=None,
        filtered_stderr=None,
    )
    PContext.close(context)
    PContext.close(context, signal.SIGTERM, 30)
    assert closed == [{"death_sig": signal.SIGTERM, "timeout": 71 + ANSWER_SECONDS}] * 2
