"""Data parallelism: the same numbers as one rank, exact resume, and no hang."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load
from torch.distributed import HashStore

from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import SegmentEnd
from domain.training.phases import Phase
from services.trainer import checkpoint_writer, objectives, peak_memory, segment
from services.trainer.checkpoint_writer import Checkpoints
from services.trainer.clock import SegmentClock, process_age_seconds
from services.trainer.context import Context
from services.trainer.execution import ExecutionMode
from services.trainer.failures import classify, shortage_of
from services.trainer.lease import Lease
from services.trainer.model import CPU, attach_adapter, load_base
from services.trainer.oom import MicroBatchTooLarge
from services.trainer.plan import Plan
from services.trainer.processes.ranks import Ranks
from services.trainer.training import Training
from tests.services.trainer.segments import Run, Trainer, resuming


def rank(number: int, count: int = 2, device: torch.device = CPU, **named: Any) -> Ranks:
    """Return a rank without a process group."""
    process = SimpleNamespace(process_index=number, num_processes=count, device=device)
    return Ranks(process, **named)  # type: ignore[arg-type]


@pytest.fixture
def in_float32(trainer: Trainer) -> None:
    """Compute in float32, as `run_ranks` does."""
    trainer.patch.setattr(segment, "choose_dtype", lambda device: torch.float32)


@pytest.mark.usefixtures("in_float32")
def test_two_ranks_equal_one_with_twice_the_accumulation(trainer: Trainer) -> None:
    """19 examples, 8 per step: the last step of an epoch has one micro-batch for two ranks."""
    alone = trainer.train({"dropout": 0.0, "gradient_accumulation": 4})
    spec = trainer.spec({"dropout": 0.0, "gradient_accumulation": 2}, gpu_count=2)
    leader, follower = trainer.run_ranks(spec)
    assert len(leader.losses) == 6
    assert leader.losses == pytest.approx(alone.losses, abs=1e-6)
    assert follower.losses == leader.losses
    assert [step.tokens for step in leader.steps] == [step.tokens for step in alone.steps]
    assert leader.evaluation.loss_after == pytest.approx(alone.evaluation.loss_after, abs=1e-6)
    assert leader.evaluation.label_tokens == alone.evaluation.label_tokens
    assert follower.phases[-1] == "evaluation"


@pytest.mark.parametrize(
    ("chosen", "count", "stop", "saved_steps"),
    [
        # The first evaluation is the best so far, so all ranks save its step.
        ({"save_steps": 4, "eval_steps": 2}, 2, {"stop_after": 3}, [2, 3]),
        pytest.param(
            *({"save_steps": 4, "eval_steps": 2}, 3, {"stop_after": 3}, [2, 3]),
            marks=pytest.mark.full,
        ),
        # In the last turn of the third step, rank 1 has no batch.
        pytest.param(
            *({"micro_batch_size": 1, "gradient_accumulation": 4}, 2, {"stop_in": 9}, [2]),
            marks=pytest.mark.full,
        ),
    ],
)
def test_ranks_resume_exactly(
    trainer: Trainer, chosen: dict, count: int, stop: dict[str, int], saved_steps: list[int]
) -> None:
    whole, spec = (trainer.spec({"dropout": 0.1, **chosen}, gpu_count=count) for _ in range(2))
    expected, *_ = trainer.run_ranks(whole)
    (stopped,) = trainer.run_ranks(spec, **stop)
    assert stopped.outcome is SegmentEnd.STOPPED
    assert stopped.saved_steps == saved_steps
    saved = stopped.checkpoints[-1]
    mine, other, *_ = load(trainer.artifacts.get(f"{saved.ref}/random.safetensors"))["rng"]
    assert not torch.equal(mine, other), "each rank has its own dropout"
    resumed, *_ = trainer.run_ranks(resuming(spec, saved))
    assert trainer.result(spec, stopped, resumed) == trainer.result(whole, expected)


def test_a_follower_contributes_only_its_random_state_to_a_checkpoint(
    trainer: Trainer, tiny_model: Path
) -> None:
    spec, lease, follower = trainer.spec(), Lease(SegmentClock(0.0), 300, 30), rank(1, 1)
    run: Any = Run(lease)
    model = attach_adapter(load_base(tiny_model, torch.float32), spec.hyperparameters, "tiny")
    trainer.patch.setattr(follower, "prepare", lambda model: model)
    folder = trainer.folder
    checkpoints = Checkpoints(
        Context(spec, trainer.artifacts, folder, folder, run, lease, follower)
    )
    plan, mode = Plan((2,), 1, 2, 2, 42), ExecutionMode(dtype="float32", threads=1)
    training = Training(model, plan, [], spec.hyperparameters, follower, lease)
    checkpoints.restore(training, mode)
    checkpoints.progress.step = 1
    rows: list[torch.Tensor] = []
    trainer.patch.setattr(follower, "gather", lambda row: rows.append(row) or row[None])
    fail = pytest.fail
    trainer.patch.setattr(checkpoint_writer, "LiveState", lambda *_: fail("it copies the state"))
    checkpoints.save(training, mode)
    checkpoints.close()
    assert [row.tolist() for row in rows] == [torch.get_rng_state().tolist()]
    assert not run.checkpoints


@pytest.mark.full
@pytest.mark.usefixtures("in_float32")
def test_a_resume_on_another_number_of_ranks_sees_the_same_examples(trainer: Trainer) -> None:
    """Without dropout, even the losses equal those of the uninterrupted run."""
    chosen = {"dropout": 0.0, "micro_batch_size": 1, "gradient_accumulation": 4}
    expected = trainer.train({**chosen, "gradient_accumulation": 8}).losses
    two = trainer.spec(chosen, gpu_count=2)
    one = two.model_copy(update={"gpu_count": 1, "approved_gpu_count": 2})
    (stopped,) = trainer.run_ranks(two, stop_after=2)
    fewer = trainer.run(resuming(one, stopped.checkpoints[-1]), stop_after=4)
    assert fewer.warns("ranks")
    more, _ = trainer.run_ranks(resuming(resuming(two), fewer.checkpoints[-1]))
    losses = stopped.losses + fewer.losses + more.losses
    assert losses == pytest.approx(expected, abs=1e-6)


@pytest.mark.full
def test_ranks_without_a_random_state_are_seeded_from_the_checkpoint(trainer: Trainer) -> None:
    spec = trainer.spec({"dropout": 0.1}, gpu_count=2)
    (stopped,) = trainer.run_ranks(spec, stop_after=2)
    fewer = spec.model_copy(update={"gpu_count": 1, "approved_gpu_count": 2})
    second = resuming(fewer, stopped.checkpoints[-1])
    once, again = trainer.run(second), trainer.run(second.model_copy(update={"segment": 3}))
    assert once.losses == again.losses


@pytest.mark.usefixtures("in_float32")
def test_half_the_micro_batch_gives_the_same_steps(trainer: Trainer) -> None:
    """With memory for three rows, the next segment has half the micro-batch."""
    chosen = {"dropout": 0.0, "micro_batch_size": 4, "gradient_accumulation": 2}
    expected, spec = trainer.train(chosen), trainer.spec(chosen)
    trainer.patch.setattr(objectives, "loss_sum", with_memory_for(3, objectives.loss_sum))
    trainer.patch.setattr(peak_memory, "_program_bytes", 0)  # so that memory freed before counts
    with pytest.raises(MicroBatchTooLarge) as caught:
        trainer.run(spec)
    shortage = shortage_of(caught.value)
    assert shortage is not None
    assert classify(caught.value, Phase.TRAINING) is FailureClass.OUT_OF_MEMORY
    assert (shortage.rows, shortage.micro_batch_size, shortage.gradient_accumulation) == (4, 4, 2)
    assert shortage.peak_bytes > 0
    halved = trainer.run(resuming(spec).model_copy(update={"micro_batch_split": 2}))
    assert halved.losses == pytest.approx(expected.losses, abs=1e-6)
    assert [step.tokens for step in halved.steps] == [step.tokens for step in expected.steps]


def with_memory_for(rows: int, loss_sum: Callable) -> Callable:
    """Return the loss function of a GPU with memory for this many rows."""

    def scarce(model: Any, batch: Any) -> Any:
        if batch.shape[0] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return loss_sum(model, batch)

    return scarce


def test_ranks_wait_without_limit_for_the_leaders_download() -> None:
    """A collective would time out. The test has no process group."""
    store, done = HashStore(), list[str]()
    leader, follower = (rank(number, store=store) for number in range(2))

    def follow() -> None:
        with follower.leader_first():
            done.append("follower")

    following = Thread(target=follow)
    following.start()
    with leader.leader_first():
        done.append("leader")
    following.join(60)
    assert done == ["leader", "follower"]


def test_ranks_agree_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """They agree before each micro-batch, and must not wait for the GPU."""
    monkeypatch.setattr(dist, "broadcast", lambda shared, src: shared.fill_(1))
    assert rank(1, device=torch.device("cuda:1")).agree(False)


@pytest.mark.parametrize(("index", "here", "interface"), [(3, 4, "lo"), (1, 2, None)])
def test_gpus_use_nccl_and_gloo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    index: int,
    here: int,
    interface: str | None,
) -> None:
    """Each rank has a GPU of its node. Only the ranks of one node can use loopback."""
    backends: list[str] = []
    chosen: list[int] = []

    def connect(backend: str, **_: object) -> None:
        backends.append(backend)
        raise InterruptedError

    monkeypatch.setattr(dist, "init_process_group", connect)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    interfaces = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    for name in interfaces:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    own = {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": index, "LOCAL_WORLD_SIZE": here}
    for name, value in own.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(InterruptedError):
        Ranks.join(tmp_path / "rendezvous", 1.0)
    assert [os.environ.get(name) for name in interfaces] == [interface, interface]
    assert chosen == [index]
    (backend,) = map(dist.Backend, backends)
    devices = dist.BackendConfig(backend).get_device_backend_map()
    assert devices == {"cpu": "gloo", "cuda": "nccl"}


def test_the_clock_of_rank_0_starts_with_the_pod() -> None:
    own = process_age_seconds()
    assert process_age_seconds(os.getppid()) >= own
