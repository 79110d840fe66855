"""The loss of ranks, and the end of all ranks with rank 0 and the launcher."""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Event

import psutil
import pytest

from domain.jobs.failures import FailureClass, MemoryShortage
from infrastructure.settings import Settings
from services.trainer.failures import shortage_of
from services.trainer.processes import followers
from services.trainer.processes.followers import (
    FollowerLost,
    Followers,
    RankError,
    error_path,
    record_exit,
)
from tests.builders.tiny_model import chats
from tests.polling import eventually
from tests.services.trainer.program import NatsServer, Program
from tests.services.trainer.ranks import follow_alone
from tests.services.trainer.segments import Trainer, resuming

LONG = {"epochs": 100}
CLOSED = RuntimeError("closed by peer")


def process_of(program: Program, rank: int) -> psutil.Process:
    """Return the process of a rank, once the agent has started it."""

    def found() -> psutil.Process | None:
        children = psutil.Process(program.process.pid).children()
        return next((c for c in children if c.environ().get("RANK") == str(rank)), None)

    return eventually(found)


@pytest.mark.full
def test_a_killed_rank_fails_the_segment_before_the_stall_limit(
    start, nats_server: NatsServer, trainer: Trainer
) -> None:
    spec = trainer.spec(LONG, chats(2000), gpu_count=2, stall_seconds=3_600)
    program = start(spec)
    program.await_training()
    process_of(program, rank=1).kill()
    program.await_line(r"^report .* outcome=crashed")
    nats_server.answer(spec)
    assert program.wait() == 1
    ending = nats_server.reports(spec)[-1]["ending"]
    assert (ending["error_class"], ending["failure"]) == ("FollowerLost", "node_lost")
    assert "rank 1 was killed by signal 9" in program.log


@pytest.mark.full
def test_a_stop_ends_every_rank(start, nats_server: NatsServer, trainer: Trainer) -> None:
    spec = trainer.spec(LONG, chats(2000), gpu_count=2)
    program = start(spec)
    program.await_training()
    follower = process_of(program, rank=1)
    program.process.send_signal(signal.SIGTERM)
    program.await_line(r"^report .* outcome=stopped")
    nats_server.answer(spec)
    assert program.wait() == 0
    assert not follower.is_running()
    final = nats_server.reports(spec)[-1]
    assert final["checkpoint"]["step"] == final["step"] > 0
    assert "Traceback" not in program.log


@pytest.mark.full
def test_the_death_of_the_leader_or_the_launcher_ends_every_rank(start, trainer: Trainer) -> None:
    spec = trainer.spec(LONG, chats(2000), gpu_count=2)
    program = start(spec)
    leader, follower = process_of(program, rank=0), process_of(program, rank=1)
    leader.kill()
    assert program.wait() == 128 + signal.SIGKILL
    assert not follower.is_running()

    program = start(resuming(spec))
    leader, follower = process_of(program, rank=0), process_of(program, rank=1)
    program.kill()
    eventually(lambda: not leader.is_running() and not follower.is_running())


@pytest.mark.full
def test_a_failed_rank_writes_its_error(trainer: Trainer) -> None:
    """Without a leader, it fails after twice the stall limit."""
    path = trainer.folder / "spec.json"
    path.write_text(trainer.spec(gpu_count=2, stall_seconds=0.3).model_dump_json())
    assert follow_alone(path, Settings(artifacts_url=trainer.url)) == 1
    error = RankError.model_validate_json((trainer.folder / "error.json").read_text())
    assert error.failure is FailureClass.TRAINER_CRASHED
    assert error.message.startswith("Traceback")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a segment whose ranks have error files."""
    for rank in range(5):
        (tmp_path / "errors" / str(rank)).mkdir(parents=True)
    monkeypatch.setenv(followers.ERROR_FILE, str(tmp_path / "errors" / "0" / "error.json"))
    return tmp_path


def write_error(
    rank: int, failure: FailureClass, text: str, shortage: MemoryShortage | None = None
) -> None:
    error = RankError(message=text, timestamp=0, failure=failure, shortage=shortage)
    error_path(rank).write_text(error.model_dump_json())


def test_the_watch_ends_a_leader_that_waits_for_a_lost_rank(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "SETTLE_SECONDS", 0.2)
    ranks, losses = Followers(directory, 5), list[FollowerLost]()
    ranks.watch(losses.append)
    assert ranks.lost() is None
    record_exit(directory, 3, -signal.SIGKILL)
    (loss,) = eventually(lambda: losses)
    assert str(loss) == "rank 3 was killed by signal 9"
    assert loss.failure is FailureClass.NODE_LOST


def test_of_several_lost_ranks_the_cause_is_reported(directory: Path) -> None:
    """The others lost their connections, or torch's agent ended them."""
    ranks = Followers(directory, 5)
    write_error(1, FailureClass.TRAINER_CRASHED, "Traceback: closed by peer")
    record_exit(directory, 1, 1)
    record_exit(directory, 2, -signal.SIGTERM)
    record_exit(directory, 3, -signal.SIGKILL)
    killed = ranks.cause_of(CLOSED, FailureClass.TRAINER_CRASHED)
    assert str(killed) == "rank 3 was killed by signal 9"
    shortage = MemoryShortage(
        rows=4, tokens=90, micro_batch_size=4, gradient_accumulation=2, peak_bytes=10**9
    )
    write_error(4, FailureClass.OUT_OF_MEMORY, "Traceback: out of memory", shortage)
    record_exit(directory, 4, 1)
    loss = ranks.cause_of(CLOSED, FailureClass.MODEL_LOAD_FAILED)
    assert loss is not None
    assert loss.failure is FailureClass.OUT_OF_MEMORY
    assert (loss.traceback, shortage_of(loss)) == ("Traceback: out of memory", shortage)
    assert ranks.cause_of(ValueError(), FailureClass.LOSS_DIVERGED) is None


@pytest.mark.full
def test_the_watch_ends_when_the_leader_leaves(directory: Path) -> None:
    ranks, abandoned = Followers(directory, 2), Event()
    ranks.watch(lambda loss: abandoned.set())
    ranks.leave()
    record_exit(directory, 1, -signal.SIGKILL)
    assert not abandoned.wait(0.3)
