"""A tiny base with two adapters that change its answers, an engine, and a serving process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import torch
from peft import LoraConfig, get_peft_model
from psycopg_pool import ConnectionPool
from transformers import AutoModelForCausalLM

from domain.catalog.base_model import BaseModel
from domain.core.event_log import EventLog
from domain.core.identity import PLATFORM_ACCOUNT_ID, base_model_id, deployment_id
from domain.deployments.deployment import Deployment
from domain.training.training_plan import Order
from domain.use_cases.deployments import Deploying
from infrastructure.artifacts.store import Artifacts, Manifest
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.event_handlers import EventHandlers, HandlerEffect, parked_events
from infrastructure.postgres.store import Connection
from infrastructure.process.backoff import MAX_PAUSE
from infrastructure.settings import Settings
from services.serving.attempts import Attempts
from services.serving.deployed import Served
from services.serving.engine import Engine
from services.serving.handlers import Serving
from services.serving.weights import WeightStore
from tests.builders.commands import FixedClock, command
from tests.builders.examples import ACCOUNT_ID, REVISION
from tests.builders.history import History
from tests.builders.serving import open_engine
from tests.builders.tiny_model import make_tiny_model
from tests.services.serving.answers import Answers

MODEL = "ft:tiny:222222222222"
CHECKPOINT = f"{MODEL}:ckpt-step-10"
CHECKPOINT_REF = "jobs/a/checkpoints/10"
ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """A second thread only slows a tiny model down."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny base model, with weights so large that it does not repeat itself."""
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
    modules = ["q_proj", "v_proj", "down_proj"]
    first = LoraConfig(task_type="CAUSAL_LM", lora_alpha=16, r=8, target_modules="all-linear")
    second = LoraConfig(
        task_type="CAUSAL_LM", lora_alpha=16, r=4, target_modules=modules, use_rslora=True
    )
    return (
        make_adapter(tiny_model, directory / "first", 1, first),
        make_adapter(tiny_model, directory / "second", 2, second),
    )


@pytest.fixture(scope="session")
def dora_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DoRA adapter of all linear layers, with changed magnitudes."""
    config = LoraConfig(
        task_type="CAUSAL_LM", lora_alpha=16, r=4, target_modules="all-linear", use_dora=True
    )
    return make_adapter(tiny_model, tmp_path_factory.mktemp("dora") / "third", 3, config)


def make_adapter(base: Path, directory: Path, seed: int, config: LoraConfig) -> Path:
    """Save an adapter whose B is not zero."""
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
            if "magnitude" in name:
                parameter *= torch.empty_like(parameter).uniform_(0.5, 1.5)
    model.save_pretrained(str(directory), save_embedding_layers=False)
    return directory


@pytest.fixture
def engine() -> Iterator[Engine]:
    with open_engine() as engine:
        yield engine


@pytest.fixture
def answers(engine: Engine, tiny_model: Path) -> Answers:
    return Answers(engine, tiny_model)


class MemoryHost:
    """Records attached deployments. It can be set to refuse or fail."""

    def __init__(self) -> None:
        self.attached: dict[UUID, Served] = {}
        self.calls: list[str] = []
        self.refusal: Exception | None = None
        self.refused: str | None = None  # the model to refuse or fail; None: all

    @property
    def models(self) -> set[str]:
        return {each.model for each in self.attached.values()}

    def attach(self, served: Served) -> None:
        self.calls.append(served.model)
        if self.refusal is not None and self.refused in (None, served.model):
            raise self.refusal
        self.attached[served.deployment_id] = served

    def detach(self, deployment_id: UUID) -> None:
        self.attached.pop(deployment_id, None)


class Process:
    """A serving process without models that can be restarted, and the history that it follows."""

    def __init__(self, log: EventLog, pool: ConnectionPool[Connection], settings: Settings) -> None:
        self.log, self._pool, self._home = log, pool, settings.home
        self.artifacts = Artifacts(settings.artifacts)
        self.history, self.deploying = History(log), Deploying(log)
        self.others = {"state.pt": b"optimizer"}  # other files of the checkpoint
        self.start()

    def start(self) -> None:
        """Start a new process with empty memory."""
        self.host, self.clock = MemoryHost(), FixedClock()
        store = WeightStore(self.artifacts, self._home / "cache")
        self.attempts = Attempts(self._home / "attempts.json")
        self.serving = Serving(self.log, self.clock, store, self.attempts, self.host)
        handlers = EventHandlers(self.serving.handlers)
        effect = HandlerEffect("serving", self.log, FixedClock(), handlers, self._pool.connection)
        self.consumer = OrderedConsumer(effect, self.log)

    def restart(self) -> None:
        self.start()
        self.serving.restore()

    def follow(self) -> None:
        while self.consumer.catch_up():
            pass

    def retry(self) -> None:
        """Retry when every pause is over."""
        self.clock.time += MAX_PAUSE
        self.serving.try_again()

    def store_base(self, revision: str = "1") -> tuple[str, str]:
        """Store a base. Return its ref and the hash of its manifest."""
        ref, files = f"models/tiny/{revision}", {"config.json": revision.encode()}
        return ref, self.artifacts.add_files(ref, Manifest(files=()), files).sha256

    def import_base(self, revision: str = "1") -> None:
        """Import a base, or revise it, and follow the log."""
        ref, sha256 = self.store_base(revision)
        content = REVISION.model_copy(update={"ref": ref, "manifest_sha256": sha256})
        with command(f"import {revision}"):
            base = self.log.find(BaseModel, base_model_id("tiny"))
            if base is None:
                base = BaseModel.imported("tiny", content)
            else:
                base.revise(content)
            self.log.commit(base)
        self.follow()

    def train(self, *, deploy: bool = False) -> None:
        """Approve a job, and train it to a checkpoint."""
        ref, sha256 = self.store_base()
        history, files = self.history, ADAPTER | self.others
        saved = self.artifacts.add_files(CHECKPOINT_REF, Manifest(files=()), files)
        history.open_account(1_000_000)
        history.open_pool()
        order = Order(deploy=deploy)
        history.approve_job(order, base_ref=ref, base_manifest_sha256=sha256)
        history.allocate_segment(1)
        history.start_pod(1)
        history.start_training(1)
        history.save_checkpoint(1, 10, 40, ref=CHECKPOINT_REF, manifest_sha256=saved.sha256)

    def register(self) -> None:
        """Register the model of the job, and follow the log."""
        adapter = self.artifacts.add_files("jobs/a/adapter", Manifest(files=()), ADAPTER)
        self.history.complete(1, adapter_sha256=adapter.sha256)
        self.follow()

    def deploy_checkpoint(self) -> None:
        self.history.deploy_checkpoint(10)

    def serve_checkpoint(self) -> None:
        """Serve a base and a checkpoint."""
        self.import_base()
        self.train()
        self.deploy_checkpoint()
        self.follow()
        assert self.host.models == {"tiny", CHECKPOINT}

    def deploy_base(self, name: str) -> None:
        """Deploy the base again, and follow the log."""
        with command(name):
            self.deploying.deploy_base("tiny")
        self.follow()

    def undeploy_base(self) -> None:
        with command("undeploy the base"):
            self.deploying.undeploy_base("tiny", lambda: 0)
        self.follow()

    def undeploy_checkpoint(self) -> None:
        self.history.undeploy(CHECKPOINT)
        self.follow()

    def found(self, model: str) -> Deployment:
        account_id = PLATFORM_ACCOUNT_ID if model == "tiny" else ACCOUNT_ID
        return self.log.load(Deployment, deployment_id(account_id, model))

    def failure(self, model: str) -> Deployment.DeploymentFailed:
        """Return the failure that is the last event of a deployment."""
        (*_, failed) = self.log.events.get(self.found(model).id)
        assert isinstance(failed, Deployment.DeploymentFailed)
        return failed

    def adapters(self) -> list[Path]:
        """Return the copies of adapters on the disk."""
        return list((self._home / "cache" / "adapters").iterdir())


@pytest.fixture
def process(
    log: EventLog, pool: ConnectionPool[Connection], settings: Settings
) -> Iterator[Process]:
    """A process in which no event handler fails."""
    yield Process(log, pool, settings)
    with pool.connection() as connection:
        assert parked_events(connection) == []
