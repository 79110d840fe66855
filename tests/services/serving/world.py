"""A platform with a stored base and a job, and a serving process that follows its log."""

from __future__ import annotations

from psycopg_pool import ConnectionPool

from domain.catalog.base_model import BaseModel
from domain.core.event_log import EventLog
from domain.core.identity import PLATFORM_ACCOUNT_ID, base_model_id, deployment_id
from domain.deployments.deployment import Deployment
from domain.jobs.job import Job
from domain.training.training_plan import Order
from domain.use_cases.deployments import Deploying
from infrastructure.artifacts import Artifacts, Manifest
from infrastructure.consumer import OrderedConsumer
from infrastructure.event_handlers import HandlerEffect
from infrastructure.settings import Settings
from infrastructure.store import Connection
from services.serving.attempts import Attempts
from services.serving.handlers import Serving
from services.serving.weights import WeightStore
from tests.builders.commands import FixedClock, command
from tests.builders.examples import (
    ACCOUNT_ID,
    ESTIMATE,
    JOB_ID,
    PLAN,
    evaluation_result,
    saved_checkpoint,
)
from tests.builders.history import History
from tests.builders.tiny_model import TINY_SHAPE
from tests.services.serving.memory_host import MemoryHost

MODEL = "ft:tiny:222222222222"
CHECKPOINT = f"{MODEL}:ckpt-step-10"
ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


class World:
    """A stored base, a job with a checkpoint, and a serving process that can be restarted."""

    def __init__(self, log: EventLog, pool: ConnectionPool[Connection], settings: Settings) -> None:
        self.log, self._pool, self._home = log, pool, settings.home
        self.artifacts = Artifacts(settings.artifacts)
        self.story = History(log)
        self.deploying = Deploying(log)
        self.start()

    def start(self) -> None:
        """Start a new process with empty memory."""
        self.host = MemoryHost()
        store = WeightStore(self.artifacts, self._home / "cache")
        self.attempts = Attempts(self._home / "attempts.json")
        self.clock = FixedClock()
        self.serving = Serving(self.log, self.clock, store, self.attempts, self.host)
        effect = HandlerEffect(
            "serving", self.log, FixedClock(), self.serving.handle, self._pool.connection
        )
        self.consumer = OrderedConsumer(effect, self.log)

    def follow(self) -> None:
        self.consumer.catch_up()

    def store_base(self, revision: bytes = b"1") -> tuple[str, str]:
        """Ref and manifest hash of a base in the artifact store."""
        ref = f"models/tiny/{revision.decode()}"
        manifest = self.artifacts.add_files(ref, Manifest(files=()), {"config.json": revision})
        return ref, manifest.sha256

    def import_base(self, revision: bytes = b"1") -> None:
        ref, sha256 = self.store_base(revision)
        content = (ref, sha256, "llama", 50_000, 256, TINY_SHAPE)
        with command(f"import {revision!r}"):
            base = self.log.find(BaseModel, base_model_id("tiny"))
            if base is None:
                base = BaseModel.imported("tiny", *content)
            else:
                base.revise(*content)
            self.log.commit(base)

    def train(self, *, deploy: bool = False) -> None:
        """A job with a checkpoint."""
        ref, sha256 = self.store_base()
        plan = PLAN.model_copy(update={"base_ref": ref, "base_manifest_sha256": sha256})
        self.story.open_account(1_000_000)
        self.story.open_pool()
        with command("approve"):
            order = Order(deploy=deploy)
            self.log.commit(Job.approve(JOB_ID, ACCOUNT_ID, plan, ESTIMATE, order))
        self.story.allocate_segment(1)
        self.story.start_pod(1)
        self.story.start_training(1)
        saved = self.artifacts.add_files(
            "jobs/a/checkpoints/10", Manifest(files=()), ADAPTER | {"state.pt": b"optimizer"}
        )
        with command("checkpoint"):
            job = self.story.job
            job.save_checkpoint(
                saved_checkpoint(1, 10, 2.5, 40, "jobs/a/checkpoints/10", saved.sha256, 1000)
            )
            self.log.commit(job)

    def register(self) -> None:
        adapter = self.artifacts.add_files("jobs/a/adapter", Manifest(files=()), ADAPTER)
        with command("register"):
            job = self.story.job
            job.start_evaluation(1, 30)
            job.complete_evaluation(1, evaluation_result(3.0, 2.0, 5, 400))
            job.register(1, "jobs/a/adapter", adapter.sha256)
            self.log.commit(job)

    def deploy_checkpoint(self) -> None:
        with command("deploy"):
            self.deploying.deploy_checkpoint(ACCOUNT_ID, JOB_ID, 10)

    def found(self, model: str) -> Deployment:
        account_id = PLATFORM_ACCOUNT_ID if model == "tiny" else ACCOUNT_ID
        return self.log.load(Deployment, deployment_id(account_id, model))


def given_a_served_checkpoint(world: World) -> None:
    world.import_base()
    world.follow()
    world.train()
    world.deploy_checkpoint()
    world.follow()
    assert world.host.models == {"tiny", CHECKPOINT}
