"""A trainer with a tiny base model, and a NATS server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infrastructure.training.reports import SegmentSpec
from tests.services.trainer.program import NatsServer, Program
from tests.services.trainer.segments import Trainer


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread, because a second one slows a tiny model."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Run a server with the declared streams. A test that stops it starts it again."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    server.provision()
    yield server
    server.stop()


@pytest.fixture
def trainer(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    return Trainer(tmp_path, tiny_model, monkeypatch)


@pytest.fixture
def start(nats_server: NatsServer, trainer: Trainer) -> Iterator[Callable[[SegmentSpec], Program]]:
    """Start trainers in processes, and kill them after the test."""
    programs: list[Program] = []
    environment = {
        "ECOLINK_NATS_URL": nats_server.url,
        "ECOLINK_ARTIFACTS_URL": trainer.url,
        "OMP_NUM_THREADS": "1",
    }

    def start(spec: SegmentSpec) -> Program:
        directory = trainer.folder / f"pod-{len(programs)}"
        programs.append(Program(spec, directory, environment))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
