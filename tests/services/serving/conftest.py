"""A tiny base with two adapters that change its answers, and an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid5

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from infrastructure.event_handlers import parked_events
from infrastructure.settings import Settings
from infrastructure.store import Connection
from services.serving.deployed import Served
from services.serving.engine import Engine, EngineOptions
from tests.builders.tiny_model import make_tiny_model
from tests.services.serving.answers import SPACE, Answers
from tests.services.serving.world import World

ServedMaker = Callable[..., Served]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """A second thread only slows a tiny model down."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny base model, with weights so large that it does not repeat itself."""
    import torch
    from transformers import AutoModelForCausalLM

    directory = make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter *= 12
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters of different ranks; the second adapts fewer modules and uses rsLoRA."""
    directory = tmp_path_factory.mktemp("adapters")
    first = make_adapter(tiny_model, directory / "first", 1, r=8, target_modules="all-linear")
    modules = ["q_proj", "v_proj", "down_proj"]
    second = make_adapter(
        tiny_model, directory / "second", 2, r=4, use_rslora=True, target_modules=modules
    )
    return first, second


def make_adapter(base: Path, directory: Path, seed: int, **config) -> Path:
    """Save an adapter whose B is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(task_type="CAUSAL_LM", lora_alpha=16, **config),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(str(directory), save_embedding_layers=False)
    return directory


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An empty engine in float32."""
    engine = Engine(EngineOptions(precision="fp32", device="cpu"))
    yield engine
    engine.close()


@pytest.fixture
def served(tiny_model: Path) -> ServedMaker:
    """Returns deployments of the tiny base, by name."""

    def make(name: str, adapter: Path | None = None) -> Served:
        return Served(deployment_of(name), name, "tiny", "11", tiny_model, adapter)

    return make


@pytest.fixture
def answers(engine: Engine) -> Answers:
    """Sends chats to the engine."""
    return Answers(engine)


def deployment_of(name: str) -> UUID:
    return uuid5(SPACE, name)


@pytest.fixture
def world(log: EventLog, pool: ConnectionPool[Connection], settings: Settings) -> Iterator[World]:
    """A World in which no event handler fails."""
    yield World(log, pool, settings)
    with pool.connection() as connection:
        assert parked_events(connection) == []
