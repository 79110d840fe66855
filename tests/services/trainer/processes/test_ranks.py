"""Data parallelism: the same numbers as one rank, exact resume, and no hang."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load
from torch.distributed import HashStore

from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.lifecycle import SegmentEnd
from domain.training.phases import Phase
from infrastructure.artifacts import Artifacts
from infrastructure.reports import SegmentSpec
from infrastructure.settings import Settings
from services.trainer import checkpoint_writer as saving
from services.trainer import segment, training
from services.trainer.checkpoint_writer import Checkpoints
from services.trainer.clock import SegmentClock, process_age_seconds
from services.trainer.context import Context
from services.trainer.execution import ExecutionMode
from services.trainer.failures import classify, shortage_of
from services.trainer.lease import Lease
from services.trainer.model import CPU, attach_adapter, load_base
from services.trainer.oom import MicroBatchTooLarge
from services.trainer.plan import Plan
from services.trainer.processes import followers
from services.trainer.processes.followers import (
    FollowerLost,
    Followers,
    RankError,
    error_path,
    record_exit,
)
from services.trainer.processes.ranks import Ranks
from services.trainer.training import Training
from tests.polling import eventually
from tests.services.trainer.conftest import SpecMaker, chats
from tests.services.trainer.group import follow_alone, run_ranks
from tests.services.trainer.notes import Notes, resuming
from tests.services.trainer.program import Program, answer, reports


@pytest.fixture
def ranks_run(tmp_path: Path):
    """Run a segment in all its ranks."""

    def run(spec: SegmentSpec, **stop: int) -> list[Notes]:
        scratch = tmp_path / f"ranks-{spec.job_id}-{spec.segment}"
        return run_ranks(spec, tmp_path / "artifacts", scratch, **stop)

    return run


def losses(notes: Notes) -> list[float]:
    return [measured.train_loss for measured in notes.steps]


def test_two_ranks_equal_one_with_twice_the_accumulation(
    run, ranks_run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """19 examples, 8 a step: the last step of an epoch has one micro-batch for two ranks."""
    monkeypatch.setattr(segment, "choose_dtype", lambda device: torch.float32)
    alone = run(make_spec({"dropout": 0.0, "gradient_accumulation": 4}))
    leader, follower = ranks_run(
        make_spec({"dropout": 0.0, "gradient_accumulation": 2}, gpu_count=2)
    )
    assert len(leader.steps) == len(alone.steps) == 6
    assert losses(leader) == pytest.approx(losses(alone), abs=1e-6)
    assert losses(follower) == losses(leader)
    assert [step.tokens for step in leader.steps] == [step.tokens for step in alone.steps]
    ours, theirs = leader.fields["evaluation"], alone.fields["evaluation"]
    assert ours.loss_after == pytest.approx(theirs.loss_after, abs=1e-6)
    assert ours.label_tokens == theirs.label_tokens
    assert follower.phases[-1] == "evaluation"


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.full)])
def test_ranks_resume_exactly(
    ranks_run, make_spec: SpecMaker, artifacts: Artifacts, count: int
) -> None:
    """The first evaluation is the best so far, so all ranks save its step."""
    chosen = {"dropout": 0.1, "save_steps": 4, "eval_steps": 2}
    whole, first = (make_spec(chosen, gpu_count=count) for _ in range(2))
    expected, *_ = ranks_run(whole)
    (stopped,) = ranks_run(first, stop_after=3)
    assert stopped.fields["outcome"] is SegmentEnd.STOPPED
    assert [each.step for each in stopped.checkpoints] == [2, 3]
    saved = stopped.checkpoints[-1]
    mine, other, *_ = load(artifacts.get(f"{saved.ref}/random.safetensors"))["rng"]
    assert not torch.equal(mine, other)  # each rank drops out of its own
    again = resuming(first, saved)
    resumed, *_ = ranks_run(again)
    assert losses(stopped) + losses(resumed) == losses(expected)
    assert resumed.fields["evaluation"] == expected.fields["evaluation"]


def test_a_follower_contributes_only_its_random_state_to_a_checkpoint(
    make_spec: SpecMaker,
    artifacts: Artifacts,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = make_spec()
    notes: Any = Notes(Lease(SegmentClock(0.0), 300, 30), None, None)
    follower = Ranks(SimpleNamespace(process_index=1, num_processes=1, device=CPU))  # type: ignore[arg-type]
    model = attach_adapter(load_base(tiny_model, torch.float32), spec.hyperparameters, "tiny")
    monkeypatch.setattr(follower, "prepare", lambda model: model)
    context = Context(spec, artifacts, tmp_path, tmp_path, notes, notes.lease, follower)
    checkpoints = Checkpoints(context)
    plan, mode = Plan((2,), 1, 2, 2, 42), ExecutionMode(dtype="float32", threads=1)
    training = Training(model, plan, [], spec.hyperparameters, follower, notes.lease)
    checkpoints.restore(training, mode)
    checkpoints.progress.step = 1
    given: list[torch.Tensor] = []
    monkeypatch.setattr(follower, "gather", lambda row: given.append(row) or row[None])
    monkeypatch.setattr(saving, "LiveState", lambda *_: pytest.fail("it copies the state"))
    checkpoints.save(training, mode)
    checkpoints.close()
    assert [row.tolist() for row in given] == [torch.get_rng_state().tolist()]
    assert not notes.checkpoints


def test_two_ranks_resume_exactly_after_a_stop_in_a_step(ranks_run, make_spec: SpecMaker) -> None:
    """19 examples, 8 a step: in the last turn of the third step rank 1 has nothing to do."""
    chosen = {"dropout": 0.1, "micro_batch_size": 1, "gradient_accumulation": 4}
    whole, first = make_spec(chosen, gpu_count=2), make_spec(chosen, gpu_count=2)
    expected, _ = ranks_run(whole)
    (stopped,) = ranks_run(first, stop_in=9)
    assert stopped.fields["outcome"] is SegmentEnd.STOPPED
    assert [saved.step for saved in stopped.checkpoints] == [2]
    again = resuming(first, stopped.checkpoints[-1])
    resumed, _ = ranks_run(again)
    assert losses(stopped) + losses(resumed) == losses(expected)
    assert resumed.fields["evaluation"] == expected.fields["evaluation"]


def test_a_resume_on_another_number_of_ranks_sees_the_same_examples(
    run, ranks_run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout even the losses equal those of the uninterrupted run."""
    monkeypatch.setattr(segment, "choose_dtype", lambda device: torch.float32)
    chosen = {"dropout": 0.0, "micro_batch_size": 1, "gradient_accumulation": 4}
    expected = losses(run(make_spec({**chosen, "gradient_accumulation": 8})))
    first = make_spec(chosen, gpu_count=2)
    (stopped,) = ranks_run(first, stop_after=2)
    fewer = first.model_copy(update={"gpu_count": 1, "approved_gpu_count": 2})
    resumed = run(resuming(fewer, stopped.checkpoints[-1]), stop_after=4)
    assert any("ranks" in line for line in resumed.warnings)
    third = resuming(first.model_copy(update={"segment": 2}), resumed.checkpoints[-1])
    more, _ = ranks_run(third)
    found = losses(stopped) + losses(resumed) + losses(more)
    assert found == pytest.approx(expected, abs=1e-6)


def test_ranks_without_a_random_state_are_seeded_from_the_checkpoint(
    run, ranks_run, make_spec: SpecMaker
) -> None:
    spec = make_spec({"dropout": 0.1}, gpu_count=2)
    (stopped,) = ranks_run(spec, stop_after=2)
    fewer = spec.model_copy(update={"gpu_count": 1, "approved_gpu_count": 2})
    second = resuming(fewer, stopped.checkpoints[-1])
    once, again = run(second), run(second.model_copy(update={"segment": 3}))
    assert losses(once) == losses(again)


def test_half_the_micro_batch_gives_the_same_steps(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory for three rows, the next segment has half the micro-batch."""
    monkeypatch.setattr(segment, "choose_dtype", lambda device: torch.float32)
    chosen = {"dropout": 0.0, "micro_batch_size": 4, "gradient_accumulation": 2}
    expected, small = run(make_spec(chosen)), make_spec(chosen)
    monkeypatch.setattr(training, "loss_sum", with_memory_for(3, training.loss_sum))
    with pytest.raises(MicroBatchTooLarge) as caught:
        run(small)
    shortage = shortage_of(caught.value)
    assert shortage is not None
    assert classify(caught.value, Phase.TRAINING) is FailureClass.OUT_OF_MEMORY
    assert (shortage.rows, shortage.micro_batch_size, shortage.gradient_accumulation) == (4, 4, 2)
    assert shortage.peak_bytes > 0
    halved = run(small.model_copy(update={"segment": 2, "micro_batch_split": 2}))
    assert losses(halved) == pytest.approx(losses(expected), abs=1e-6)
    assert [step.tokens for step in halved.steps] == [step.tokens for step in expected.steps]


def with_memory_for(rows: int, loss_sum: Callable) -> Callable:
    """The loss function on a GPU with memory for this many rows."""

    def scarce(model: Any, batch: Any) -> Any:
        if batch.shape[0] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return loss_sum(model, batch)

    return scarce


def test_ranks_wait_without_limit_for_the_leaders_download() -> None:
    """Not by a collective, which would time out: the test has no process group."""
    store, done = HashStore(), []
    leader, follower = (
        Ranks(SimpleNamespace(process_index=rank, num_processes=2, device=CPU), store)  # type: ignore[arg-type]
        for rank in range(2)
    )

    def follow() -> None:
        with follower.leader_first():
            done.append("follower")

    following = Thread(target=follow)
    following.start()
    with leader.leader_first():
        done.append("leader")
    following.join(60)
    assert done == ["leader", "follower"]


@pytest.mark.full
def test_a_killed_rank_fails_the_segment_before_the_stall_limit(
    start, nats_server, make_spec: SpecMaker
) -> None:
    spec = make_spec({"epochs": 100}, chats(2000), gpu_count=2, stall_seconds=3_600)
    program = start(spec)
    program.await_line(r"^report .* phase=training step=[1-9]")
    process_of(program, rank=1).kill()
    program.await_line(r"^report .* outcome=crashed")
    answer(nats_server, spec)
    assert program.wait() == 1
    final = reports(nats_server, spec)[-1]
    assert (final["error_class"], final["failure"]) == ("FollowerLost", "node_lost")
    assert "rank 1 was killed by signal 9" in program.log


def test_ranks_agree_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """They agree before each micro-batch, and must not wait for the GPU."""
    on_gpu = SimpleNamespace(process_index=1, num_processes=2, device=torch.device("cuda:1"))
    monkeypatch.setattr(dist, "broadcast", lambda said, src: said.fill_(1))
    assert Ranks(on_gpu).agree(False)  # type: ignore[arg-type]


def test_gpus_use_nccl_and_gloo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meetings: list[str] = []

    def meet(backend: str, **rest: object) -> None:
        meetings.append(backend)
        raise InterruptedError

    monkeypatch.setattr(dist, "init_process_group", meet)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda rank: None)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "lo")
    with pytest.raises(InterruptedError):
        Ranks.join(tmp_path / "rendezvous", 1.0)
    (meeting,) = meetings
    assert dist.BackendConfig(dist.Backend(meeting)).get_device_backend_map() == {
        "cpu": "gloo",
        "cuda": "nccl",
    }


def test_a_failed_rank_writes_its_error(make_spec: SpecMaker, tmp_path: Path) -> None:
    """Without a leader it gives up after twice the stall limit."""
    path = tmp_path / "spec.json"
    path.write_text(make_spec(gpu_count=2, stall_seconds=0.3).model_dump_json())
    settings = Settings(artifacts_url=(tmp_path / "artifacts").as_uri())
    assert follow_alone(path, settings) == 1
    words = RankError.model_validate_json((tmp_path / "error.json").read_text())
    assert words.failure is FailureClass.TRAINER_CRASHED
    assert words.message.startswith("Traceback")


@pytest.mark.full
def test_a_stop_ends_every_rank_and_so_does_the_death_of_the_leader_or_the_launcher(
    start, nats_server, make_spec: SpecMaker
) -> None:
    spec = make_spec({"epochs": 100}, chats(2000), gpu_count=2)
    program = start(spec)
    program.await_line(r"^report .* phase=training step=[1-9]")
    follower = process_of(program, rank=1)
    program.process.send_signal(signal.SIGTERM)
    program.await_line(r"^report .* outcome=stopped")
    answer(nats_server, spec)
    assert program.wait() == 0
    assert not follower.is_running()
    final = reports(nats_server, spec)[-1]
    assert final["checkpoint"]["step"] == final["step"] > 0
    assert "Traceback" not in program.log

    program = start(spec.model_copy(update={"segment": 2}))
    leader, follower = process_of(program, rank=0), process_of(program, rank=1)
    leader.kill()
    assert program.wait() == 128 + signal.SIGKILL
    assert not follower.is_running()

    program = start(spec.model_copy(update={"segment": 3}))
    leader, follower = process_of(program, rank=0), process_of(program, rank=1)
    program.kill()
    eventually(lambda: not leader.is_running() and not follower.is_running())


@pytest.fixture
def spec_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The spec path of a segment whose ranks have error files."""
    for rank in range(5):
        (tmp_path / "errors" / str(rank)).mkdir(parents=True)
    monkeypatch.setenv(followers.ERROR_FILE, str(tmp_path / "errors" / "0" / "error.json"))
    return tmp_path / "spec.json"


def test_the_watch_ends_a_leader_that_waits_for_a_lost_rank(
    spec_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "SETTLE_SECONDS", 0.2)
    ranks, abandoned, losses = Followers(spec_path.parent, 5), Event(), []

    def abandon(loss: FollowerLost) -> None:
        losses.append(loss)
        abandoned.set()

    ranks.watch(abandon)
    assert ranks.lost() is None
    record_exit(spec_path.parent, 3, -signal.SIGKILL)
    assert abandoned.wait(60)
    assert str(losses[0]) == "rank 3 was killed by signal 9"
    assert losses[0].failure is FailureClass.NODE_LOST


def test_of_several_lost_ranks_the_cause_is_reported(spec_path: Path) -> None:
    """The others lost their connections, or torch's agent ended them."""
    ranks = Followers(spec_path.parent, 5)
    write_error(1, FailureClass.TRAINER_CRASHED, "Traceback: closed by peer")
    record_exit(spec_path.parent, 1, 1)
    record_exit(spec_path.parent, 2, -signal.SIGTERM)
    record_exit(spec_path.parent, 3, -signal.SIGKILL)
    killed = ranks.cause_of(RuntimeError("closed by peer"), FailureClass.TRAINER_CRASHED)
    assert str(killed) == "rank 3 was killed by signal 9"
    shortage = MemoryShortage(
        rows=4, tokens=90, micro_batch_size=4, gradient_accumulation=2, peak_bytes=10**9
    )
    write_error(4, FailureClass.OUT_OF_MEMORY, "Traceback: out of memory", shortage)
    record_exit(spec_path.parent, 4, 1)
    loss = ranks.cause_of(RuntimeError("closed by peer"), FailureClass.MODEL_LOAD_FAILED)
    assert loss is not None
    assert loss.failure is FailureClass.OUT_OF_MEMORY
    assert loss.traceback == "Traceback: out of memory"
    assert shortage_of(loss) == shortage
    assert ranks.cause_of(ValueError(), FailureClass.LOSS_DIVERGED) is None


def test_the_watch_ends_when_the_leader_leaves(spec_path: Path) -> None:
    ranks, abandoned = Followers(spec_path.parent, 2), Event()
    ranks.watch(lambda loss: abandoned.set())
    ranks.leave()
    record_exit(spec_path.parent, 1, -signal.SIGKILL)
    assert not abandoned.wait(0.3)


def test_the_clock_of_rank_0_starts_with_the_pod() -> None:
    own = process_age_seconds()
    assert process_age_seconds(os.getppid()) >= own


def write_error(
    rank: int, failure: FailureClass, text: str, shortage: MemoryShortage | None = None
) -> None:
    words = RankError(message=text, timestamp=0, failure=failure, shortage=shortage)
    error_path(rank).write_text(words.model_dump_json())


def process_of(program: Program, rank: int) -> psutil.Process:
    """The process of a rank, once the agent has started it."""

    def found() -> psutil.Process | None:
        children = psutil.Process(program.process.pid).children()
        return next((c for c in children if c.environ().get("RANK") == str(rank)), None)

    return eventually(found)
