"""A tiny base model in a store, a chat dataset, and a NATS server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from domain.training.hyperparameters import Hyperparameters
from infrastructure.artifacts import Artifacts
from infrastructure.reports import SegmentSpec
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease, SegmentStopped
from tests.services.trainer.nats_server import ISSUER, NatsServer
from tests.services.trainer.notes import Notes, on_micro_batch
from tests.services.trainer.program import Program

if TYPE_CHECKING:
    from services.trainer.processes.warm_base import WarmBase

SpecMaker = Callable[..., SegmentSpec]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread, because a second one slows a tiny model."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server with the declared streams. A test that stops it starts it again."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    server.provision()
    yield server
    server.stop()


@pytest.fixture
def artifacts(tmp_path: Path, tiny_model: Path) -> Artifacts:
    """A store with the tiny base model under `models/tiny`."""
    store = Artifacts((tmp_path / "artifacts").as_uri())
    store.put_directory("models/tiny", tiny_model)
    return store


def chats(count: int) -> list[dict]:
    """Short conversations of different lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} and {n}?" + " Tell me." * (n % 4)},
                {"role": "assistant", "content": f"It is {2 * n}." + " Good." * (n % 3)},
            ]
        }
        for n in range(count)
    ]


@pytest.fixture
def make_spec(artifacts: Artifacts) -> SpecMaker:
    """Make the spec of a segment over a stored dataset; fields may be overridden."""

    def make(hyperparameters: dict | None = None, rows: list[dict] | None = None, **fields):
        rows = chats(20) if rows is None else rows
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        job_id = fields.pop("job_id", uuid4())
        artifacts.put("datasets/chats.jsonl", content)
        values = {
            "account_id": uuid4(),
            "job_id": job_id,
            "segment": 1,
            "dataset_ref": "datasets/chats.jsonl",
            "dataset_sha256": hashlib.sha256(content).hexdigest(),
            "base_model": "tiny",
            "base_ref": "models/tiny",
            "hyperparameters": Hyperparameters(
                **{
                    "epochs": 2,
                    "micro_batch_size": 2,
                    "gradient_accumulation": 2,
                    "learning_rate": 0.01,
                    **(hyperparameters or {}),
                }
            ),
            "paid_seconds": 300,
            "grace_seconds": 30,
            "heartbeat_seconds": 0.05,
            "checkpoint_prefix": f"jobs/{job_id}/checkpoints",
            "adapter_prefix": f"jobs/{job_id}/adapter",
        }
        spec = SegmentSpec(**values | fields)
        issued = ISSUER.issue(spec.account_id, spec.job_id, spec.segment)
        return spec.model_copy(update={"credentials": issued})

    return make


@pytest.fixture
def run(artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a segment until it completes or stops, and return its notes.

    A stop may be requested after a step, or in a micro-batch, counted over all steps from 1.
    """

    def run(
        spec: SegmentSpec,
        *,
        stop_after: int | None = None,
        lapse_after: int | None = None,
        stop_in: int | None = None,
        age_seconds: float = 0,
        warm_base: WarmBase | None = None,
    ) -> Notes:
        lease = Lease(SegmentClock(age_seconds), spec.paid_seconds, spec.grace_seconds)
        notes = Notes(lease, stop_after, lapse_after)
        scratch = tmp_path / f"{spec.job_id}-{spec.segment}"
        scratch.mkdir()
        from services.trainer import segment, training
        from services.trainer.checkpoint_writer import Checkpoints
        from services.trainer.context import Context
        from services.trainer.processes.ranks import Ranks

        context = Context(spec, artifacts, scratch, tmp_path / "cache", notes, lease, Ranks.alone())
        with monkeypatch.context() as patch:
            if stop_in is not None:
                counting = on_micro_batch(training.loss_sum, stop_in, lease.request_stop)
                patch.setattr(training, "loss_sum", counting)
            try:
                segment.run(context, Checkpoints(context), warm_base)
            except SegmentStopped as stopped:
                notes.fields["outcome"] = stopped.outcome
        return notes

    return run


@pytest.fixture
def start(
    nats_server: NatsServer, tmp_path: Path, artifacts: Artifacts
) -> Iterator[Callable[[SegmentSpec], Program]]:
    """Start trainers, and kill them after the test."""
    programs: list[Program] = []

    def start(spec: SegmentSpec) -> Program:
        directory = tmp_path / f"pod-{len(programs)}"
        url = (tmp_path / "artifacts").as_uri()
        programs.append(Program(spec, directory, nats_server.url, url))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
