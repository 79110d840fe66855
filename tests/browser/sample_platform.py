"""A gateway whose log contains every state of every page. No service changes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.access.role import Role
from domain.billing.budget import BudgetName, BudgetPeriod
from domain.billing.payment import Receipt
from domain.billing.suspension import SuspensionReason
from domain.capacity.gpu_pool import GpuPool
from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import Region, shipped_offers
from domain.core.aggregate import Cause, because
from domain.core.identity import CATALOG_ID
from domain.datasets.dataset import Dataset
from domain.deployments.deployment import Deployment
from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.job import Job
from domain.training.token_lengths import TokenLengths
from gateway.backend import Backend, open_backend
from gateway.jobs.launch.job_form import JobRequest
from gateway.schemas import parsed_job_id
from infrastructure.accounts.profiles import add_account_name, set_dataset_name
from infrastructure.accounts.sessions import add_sign_in_link
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import Connection, connect
from infrastructure.process.limited_process import Limits
from infrastructure.seals import verifications
from infrastructure.seals.archive import SealArchive, origin_of
from infrastructure.seals.verifications import Options, Outcome, Stage, Verdict
from infrastructure.settings import Settings
from infrastructure.training.measurements import set_progress
from services.auditor.verifying import Request, run
from services.datasets import limited_work
from services.datasets.limited_work import Resources
from services.datasets.unpacking import Sizes
from services.datasets.validating import Validating
from services.sealer.sealer import Sealer
from services.serving.deployed import REASONS
from tests.browser.sample_operations import add_operations, add_trainer_output
from tests.builders.commands import FixedClock
from tests.builders.examples import revision
from tests.builders.past_job import PastJob
from tests.builders.tiny_model import make_tiny_tokenizer
from tests.extension_modules import extension_modules
from tests.gateway.conftest import running_gateway
from tests.logs import notifications
from tests.polling import eventually
from tests.projecting import project

REGION = Region(
    name="eu-central", title="Frankfurt", capacity={"h100": 4, "a100-80": 2, "a100-40": 2, "l4": 8}
)
BASES = ("llama-3.1-8b-instruct", "qwen2.5-7b-instruct", "smollm2-1.7b-instruct")
SILENT_BASES = ("gemma-2-9b-it", "mistral-7b-instruct-v0.3")
"""Imported but not deployed. The deployment of the last one failed."""

MANY_POINTS = 100_000
SHORTAGE = MemoryShortage(
    rows=4, tokens=2_048, micro_batch_size=4, gradient_accumulation=4, peak_bytes=21_900_000_000
)

QUESTIONS = (
    ("How do I reset my password?", "Open Settings, choose Security, and click Reset password."),
    ("My parcel has not arrived yet.", "I am sorry to hear that. May I have your order number?"),
    ("Can I change the delivery address?", "Yes, as long as the parcel has not left our house."),
    ("Do you ship to Norway?", "We do; it takes three to five working days."),
    ("The lamp arrived broken.", "We will send you a new one at once; please keep the parts."),
    ("How long is the warranty?", "Two years from the day of the purchase."),
)


@dataclass(frozen=True)
class SamplePerson:
    """An account holder who can sign in."""

    settings: Settings
    url: str
    account_id: UUID
    key_id: UUID

    def sign_in_link(self) -> str:
        """Return a one-time link that signs a browser in."""
        with connect(self.settings) as connection:
            return f"{self.url}/sign-in/{add_sign_in_link(connection, self.key_id)}"


@dataclass
class SamplePlatform:
    """The gateway's URL, the account holders by name, and the pages' paths by state."""

    url: str
    settings: Settings
    people: dict[str, SamplePerson] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    lock: ExitStack = field(default_factory=ExitStack)
    """Holds the lock of verifications while the sample shows one that runs."""

    def set_verifying(self, verifying: bool) -> None:
        """Let the unfinished verification run, or stop it."""
        self.lock.close()
        with connect(self.settings) as connection:
            eventually(lambda: not verifications.is_running(connection))
        if verifying:
            self.lock.enter_context(verifications.verifying(self.settings))


@contextmanager
def serve_samples(settings: Settings) -> Iterator[SamplePlatform]:
    """Write all samples to the log, and serve them."""
    # The jobs of the sample take their own time. None of them pauses for it.
    settings = settings.model_copy(update={"guarantee_factor": 100.0})
    with running_gateway(settings) as gateway:
        sample = SamplePlatform(gateway.url, settings)
        with open_backend(settings) as backend:
            with tasks_in_this_process():
                Samples(backend, sample).add_all()
            with connect(settings) as connection:
                project(backend.log, connection)
                key = seal(backend, connection)
                for each in extension_modules("sample_signed"):
                    each.add(backend, connection, key, sample.people["ada"].account_id)
                add_verifications(settings, connection, sample)
                registered = parsed_job_id(sample.paths["registered"].rpartition("/")[2])
                for each in extension_modules("sample"):
                    paths = each.add(connection, sample.people["ada"].account_id, registered)
                    sample.paths |= paths or {}
                add_operations(connection)
                for name in ("ada", "hedy", "vera"):
                    account_id = sample.people[name].account_id
                    sample.paths[f"ops account {name}"] = f"/ops/accounts/{account_id}"
                ada = sample.people["ada"].account_id
                sample.paths["audit account"] = f"/audit/accounts/{ada}"
            failed = sample.paths["failed"].rpartition("/")[2]
            add_trainer_output(backend.artifacts, backend.log.load(Job, parsed_job_id(failed)))
            sample.paths["ops trainer log"] = f"/ops/jobs/{failed}/trainer-log"
            _add_audit_paths(backend, sample)
        with sample.lock:
            yield sample


@contextmanager
def tasks_in_this_process() -> Iterator[None]:
    """Work on datasets in this process, which imports the libraries only once."""

    def run(
        module: str,
        request: dict[str, Any],
        limits: Limits,
        on_progress: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> dict[str, Any]:
        result = import_module(module).handle(request, on_progress)
        return json.loads(json.dumps(result))

    with patch.object(limited_work, "run", run):
        yield
    for name in [name for name, module in sys.modules.items() if module is None]:
        del sys.modules[name]  # a task blocked its import


def seal(backend: Backend, connection: Connection) -> Ed25519PrivateKey:
    """Seal the whole log. Return the key."""
    archive = SealArchive(backend.artifacts)
    key = Ed25519PrivateKey.generate()
    sealer = Sealer(archive, origin_of(log_identity(connection)), key, lambda: datetime.now(UTC))
    archive.put_public_key(sealer.log_key)
    while sealer.step(connection):
        pass
    sealer.export()
    return key


def add_verifications(settings: Settings, connection: Connection, sample: SamplePlatform) -> None:
    """Add a verification with differences, one without, and an unfinished one.

    The sample has differences, because no service wrote it.
    """
    olga = sample.people["olga"].account_id
    ids = {name: uuid4() for name in ("differs", "matches", "unfinished")}
    for name, id in ids.items():
        sample.paths[f"verification {name}"] = f"/audit/verification/{id}"
    options = Options(artifacts=True)
    run(
        Request(settings=settings, id=ids["differs"], requested_by=olga, options=options),
        lambda _: None,
    )
    report = json.loads(verifications.report_of(connection, ids["differs"]) or "")
    changed = {"kind": "event_changed", "position": 17, "text": "Event 17 was changed."}
    seals = report["seals"] | {"counts": {"event_changed": 1}, "differences": [changed]}
    _finish(connection, ids["differs"], report | {"seals": seals})
    verifications.begin(connection, ids["matches"], olga, options)
    tables = [each | {"refolded": each["live"], "equal": True} for each in report["tables"]]
    artifacts = report["artifacts"] | {"differences": []}
    same = {"differences": [], "tables": tables, "artifacts": artifacts}
    _finish(connection, ids["matches"], report | same)
    verifications.begin(connection, ids["unfinished"], olga, Options(artifacts=True))
    verifications.report_progress(connection, ids["unfinished"], Stage.REPLAY, 1_204_000, 2_950_000)


def _finish(connection: Connection, id: UUID, report: dict[str, Any]) -> None:
    found = (report, report["seals"], report["artifacts"])
    count = sum(len(each["differences"]) for each in found)
    verdict = Verdict.DIFFERS if count else Verdict.MATCHES
    outcome = Outcome(verdict, count, report["summary"])
    verifications.finish(connection, id, outcome, json.dumps(report))


def _add_audit_paths(backend: Backend, sample: SamplePlatform) -> None:
    """Add the pages of a job, of a charge, and of an event that is not sealed yet."""
    last = {each.topic: each.id for each in notifications(backend.log)}
    sample.paths["audit event"] = f"/audit/events/{last['MinuteMetered']}"
    sample.paths["audit job"] = sample.paths["registered"].replace("/fine-tune/", "/audit/jobs/")
    with because(Cause("service:test", str(uuid4()), datetime.now(UTC))):
        backend.ecolink.grant_credit(sample.people["olga"].account_id, 1_000_000, "late")
    newest = notifications(backend.log)[-1].id
    sample.paths["audit event unsealed"] = f"/audit/events/{newest}"


class Samples:
    """Adds accounts, datasets, jobs and deployments to the platform's log."""

    def __init__(self, backend: Backend, sample: SamplePlatform) -> None:
        self.backend, self.sample = backend, sample
        self.now = datetime.now(UTC)
        self.random = Random(6)

    def add_all(self) -> None:
        self._open_platform()
        ada = self._person("ada", 180)
        link = self.sample.people["ada"].sign_in_link()
        self.sample.paths["sign-in link"] = link.removeprefix(self.sample.url)
        self._person("newcomer", 25)
        poor = self._person("grace", 12)
        chats = self._dataset(ada, "support-chats", lines(self.random, 2_400))
        small = self._dataset(ada, "product-questions", lines(self.random, 640))
        self._reject(ada)
        self._keep_validating(ada)
        self.sample.paths["wizard"] = f"/fine-tune/new?dataset={chats}"
        self.sample.paths["wizard few examples"] = f"/fine-tune/new?dataset={small}"
        self._jobs(ada, chats, small)
        with because(Cause("account:test", str(uuid4()), self.now)):
            key = BudgetName(BudgetPeriod.TOTAL, self.sample.people["ada"].key_id)
            for name, limit in ((BudgetName(BudgetPeriod.MONTH), 60_000_000), (key, 1_200_000)):
                self.backend.ecolink.set_budget(ada, name, limit)
        linus = self._person("linus", 40)
        his = self._dataset(linus, "release-notes", lines(self.random, 300))
        self.sample.paths["wizard mistaken"] = f"/fine-tune/new?dataset={his}"
        mary = self._person("mary", 40)
        self._dataset(mary, "tickets", lines(self.random, 1_500))
        self._dataset(mary, "agent-calls", with_tools(lines(self.random, 1_100)))
        theirs = self._dataset(poor, "faq", lines(self.random, 1_200))
        self.sample.paths["wizard no balance"] = f"/fine-tune/new?dataset={theirs}"
        self._show("paused-balance", self._job(poor, theirs, 50).train(160).exhaust_balance())
        self._deployments(self._person("vera", 80))
        self._endings(self._person("iris", 60))
        self._person("olga", 40, Role.OPERATOR)
        self._person("rita", 0, Role.AUDITOR)
        suspended = self._person("hedy", 30)
        with self._minutes_ago(60 * 30):
            self.backend.ecolink.suspend(suspended, SuspensionReason.PAYMENT)

    def _jobs(self, ada: UUID, chats: UUID, small: UUID) -> None:
        show = self._show
        long = self._job(ada, chats, 60 * 50, epochs=100)
        long.total_steps = MANY_POINTS
        long.train(1)
        long.add_steps(MANY_POINTS)
        show("many-points", long)
        done = self._job(ada, chats, 60 * 30, learning_rate=1e-4)
        show("registered", done.train(done.total_steps).evaluate().register())
        self._deploy(done)
        second = self._job(ada, chats, 60 * 26)
        show("registered-undeployed", second.train(second.total_steps).evaluate().register())
        with connect(self.backend.settings) as connection:
            project(self.backend.log, connection)  # calibrates later estimates
        show("cancelled", self._job(ada, small, 60 * 5).train(90, save_every=50).cancel())
        diverged = self._job(ada, small, 60 * 3, learning_rate=0.02).train(40, save_every=50)
        diverged.log("loss is nan at step 41", "ERROR")
        show("failed", diverged.fail(FailureClass.LOSS_DIVERGED, "LossDiverged", DIVERGED))
        show("paused-owner", self._job(ada, chats, 95).train(140).pause())
        show("paused-max-cost", self._job(ada, chats, 90).train(120).reach_max_cost())
        kept = self._job(ada, small, 60 * 4).train(60, save_every=50).cancel()
        show("promoted", kept.promote())
        few = self._job(ada, small, 30, gpu_type="a100-80", gpu_count=2).lose_capacity()
        show("paused-capacity", few)
        ready = self._job(ada, small, 20)
        show("evaluating", ready.train(ready.total_steps, save_every=50).evaluate(completed=False))
        ready = self._job(ada, small, 18, gpu_type="a100-80")
        show("registering", ready.train(ready.total_steps, save_every=50).evaluate())
        show("training", self._job(ada, chats, 9).train(236))
        show("training-just-begun", self._job(ada, chats, 2, gpu_type="l4").train(1))
        again = self._job(ada, small, 40, gpu_type="l4").train(70, save_every=50)
        again.crash(FailureClass.OUT_OF_MEMORY, SHORTAGE).train(25)
        show("tried-again", again.crash(FailureClass.NODE_LOST))
        show("waiting", self._job(ada, chats, 1, gpu_type="a100-40", gpu_count=2).queue())

    def _endings(self, person: UUID) -> None:
        """Add jobs that are stopping, and one that failed at the platform's cost."""
        letters = self._dataset(person, "letters", lines(self.random, 900))
        judged = self._dataset(person, "letters for validation", lines(self.random, 80))
        failed = self._job(person, letters, 60 * 2, validation_dataset=judged)
        failed.train(130, save_every=50).log(
            "out of memory in a batch of 1 x 2,048 tokens", "ERROR"
        )
        alone = SHORTAGE.model_copy(update={"rows": 1})
        failed.fail(FailureClass.OUT_OF_MEMORY, "OutOfMemoryError", OUT_OF_MEMORY, alone)
        self._show("failed-platform", failed)
        pausing = self._job(person, letters, 8, gpu_type="l4").train(120, save_every=50)
        self._show("pausing", pausing.request_pause())
        cancelling = self._job(person, letters, 6, gpu_type="l4").train(70, save_every=50)
        self._show("cancelling", cancelling.request_cancel())

    def _deployments(self, person: UUID) -> None:
        """Add deployments that are deploying, active and failed."""
        chats = self._dataset(person, "recipes", lines(self.random, 300))
        failed = self._job(person, chats, 60 * 9).train(40, save_every=20)
        failed = failed.train(failed.total_steps - 40).evaluate().register()
        self._deploy(failed, fails=("serving_died", REASONS["serving_died"]))
        self._deploy_checkpoint(failed, fails=("no_room", REASONS["no_room"]))
        self._show("deployment-failed", failed)
        deploying = self._job(person, chats, 60 * 7).train(40, save_every=20)
        deploying = deploying.train(deploying.total_steps - 40).evaluate().register()
        self._deploy(deploying, activates=False)
        self._deploy_checkpoint(deploying)
        self._show("deploying", deploying)
        for each in extension_modules("sample_events"):
            self.sample.paths |= each.add(self.backend, failed) or {}

    def _open_platform(self) -> None:
        with self._minutes_ago(60 * 24 * 40):
            catalog = self.backend.log.load(Catalog, CATALOG_ID)
            catalog.offer_region(REGION)
            self.backend.log.commit(catalog)
            for gpu_type, capacity in REGION.capacity.items():
                pool = GpuPool.open(REGION.name, gpu_type)
                pool.change_capacity(capacity)
                self.backend.log.commit(pool)
            shapes = {each.name: each.shape for each in shipped_offers().bases}
            for name in (*BASES, *SILENT_BASES):
                manifest = self._put_tokenizer(f"models/{name}")
                content = revision(
                    ref=f"models/{name}", manifest_sha256=manifest, shape=shapes[name]
                )
                self.backend.ecolink.import_base_model(name, content)
            for name in (*BASES, SILENT_BASES[-1]):
                deployment = self.backend.deploying.deploy_base(name)
                fails = ("no_room", REASONS["no_room"]) if name in SILENT_BASES else None
                self._serve(deployment, True, fails)

    def _put_tokenizer(self, ref: str) -> str:
        folder = self.backend.settings.home / "tokenizer"
        if not folder.exists():
            make_tiny_tokenizer().save_pretrained(folder)
        return Artifacts(self.backend.settings.artifacts).put_directory(ref, folder).sha256

    def _person(self, name: str, dollars: int, role: Role = Role.OWNER) -> UUID:
        account_id = uuid4()
        ecolink = self.backend.ecolink
        with connect(self.backend.settings) as connection:
            add_account_name(connection, account_id, name)
        with self._minutes_ago(60 * 24 * 12):
            ecolink.open_account(account_id, role)
            key, _ = ecolink.issue_key(account_id)
        if dollars:
            self._pay(account_id, name, dollars * 1_000_000)
        person = SamplePerson(self.backend.settings, self.sample.url, account_id, key.id)
        self.sample.people[name] = person
        return account_id

    def _pay(self, account_id: UUID, name: str, amount_micros: int) -> None:
        """Grant $5 of credit, and top up the rest of an amount."""
        ecolink, credit = self.backend.ecolink, 5_000_000
        with self._minutes_ago(60 * 24 * 12):
            ecolink.grant_credit(account_id, credit, "welcome")
        with self._minutes_ago(60 * 24 * 9):
            micros = amount_micros - credit
            receipt = Receipt(provider="manual", reference=f"{name} 1", amount_micros=micros)
            ecolink.top_up(account_id, receipt)

    def _upload(self, person: UUID, name: str, content: bytes, minutes_ago: float) -> Dataset:
        dataset_id = uuid4()
        ref = f"uploads/{dataset_id}"
        self.backend.artifacts.put(ref, content)
        with connect(self.backend.settings) as connection:
            set_dataset_name(connection, dataset_id, name)
        with self._minutes_ago(minutes_ago):
            dataset = self.backend.ecolink.upload_dataset(
                person, dataset_id, ref, dataset_id.hex * 2, len(content)
            )
        self.sample.paths[f"dataset {name}"] = f"/datasets/{dataset_id}"
        self.sample.paths[f"columns {name}"] = f"/datasets/{dataset_id}/columns"
        return dataset

    def _validate(self, dataset: Dataset, minutes_ago: float) -> None:
        backend = self.backend
        clock = FixedClock(self.now - timedelta(minutes=minutes_ago))
        sizes = Sizes(backend.settings.dataset_max_bytes, 10**9)
        resources = Resources(backend.log, clock, backend.artifacts, backend.pool, sizes)
        Validating(resources).validate(dataset.id)

    def _dataset(self, person: UUID, name: str, content: bytes) -> UUID:
        dataset = self._upload(person, name, content, 60 * 49)
        self._validate(dataset, 60 * 48.9)
        with self._minutes_ago(60 * 48.8):
            dataset = self.backend.log.load(Dataset, dataset.id)
            examples = range(dataset.examples)
            for base in (*BASES, *SILENT_BASES):
                sizes = [round(self.random.lognormvariate(5, 0.5)) for _ in examples]
                manifest = self._put_tokenizer(f"models/{base}")
                dataset.record_tokens(base, manifest, TokenLengths.of(sizes))
            self.backend.log.commit(dataset)
        return dataset.id

    def _reject(self, person: UUID) -> None:
        wrong = [
            '{"messages": [{"role": "user", "content": "Hello"}]}',
            '{"messages": [{"role": "robot", "content": "Beep"}]}',
            '{"messages": [{"role": "user", "content": "Where is my order?"}, ',
            '{"prompt": "Hi", "completion": ""}',
        ]
        content = lines(self.random, 40) + "\n".join(wrong).encode() + b"\n"
        self._validate(self._upload(person, "broken-export", content, 34), 33.9)

    def _keep_validating(self, person: UUID) -> None:
        dataset = self._upload(person, "all-tickets-2026", lines(self.random, 3_000), 0.2)
        with connect(self.backend.settings) as connection:
            set_progress(connection, dataset.id, 1_890, 400_000, dataset.total_bytes)

    def _job(
        self, person: UUID, dataset: UUID, minutes_ago: float, gpu_type: str = "h100", **fields: Any
    ) -> PastJob:
        gpu_count, validation = fields.pop("gpu_count", 1), fields.pop("validation_dataset", None)
        form = JobRequest.model_validate(
            {
                "dataset": dataset,
                "validation_dataset": validation,
                "base_model": BASES[0],
                "region": REGION.name,
                "gpu_type": gpu_type,
                "gpu_count": gpu_count,
                "hyperparameters": {"micro_batch_size": 4, "gradient_accumulation": 4, **fields},
            }
        )
        at = self.now - timedelta(minutes=minutes_ago)
        return PastJob(self.backend, person, at, form, seed=round(minutes_ago))

    def _deploy(
        self, job: PastJob, *, activates: bool = True, fails: tuple[str, str] | None = None
    ) -> None:
        with because(Cause(f"account:{job.account_id}", str(uuid4()), job.now)):
            deployment = self.backend.deploying.deploy_model(job.account_id, job.id)
            self._serve(deployment, activates, fails)

    def _deploy_checkpoint(self, job: PastJob, fails: tuple[str, str] | None = None) -> None:
        with because(Cause(f"account:{job.account_id}", str(uuid4()), job.now)):
            saved = job.job.checkpoints[-1].step
            deploying = self.backend.deploying
            self._serve(deploying.deploy_checkpoint(job.account_id, job.id, saved), True, fails)

    def _serve(
        self, deployment: Deployment, activates: bool, fails: tuple[str, str] | None
    ) -> None:
        if fails is not None:
            deployment.fail(*fails)
        elif activates:
            deployment.activate()
        self.backend.log.commit(deployment)

    def _show(self, state: str, job: PastJob) -> None:
        self.sample.paths[state] = job.path

    @contextmanager
    def _minutes_ago(self, minutes_ago: float) -> Iterator[None]:
        at = self.now - timedelta(minutes=minutes_ago)
        with because(Cause("service:test", str(uuid4()), at)):
            yield


def lines(random: Random, count: int) -> bytes:
    """Return distinct chats as JSONL."""
    chats = []
    for n in range(count):
        asked, answered = random.choice(QUESTIONS)
        messages = [
            {"role": "system", "content": "You are the friendly voice of a lamp shop."},
            {"role": "user", "content": f"{asked} (order {n + 1001})"},
            {"role": "assistant", "content": answered},
        ]
        chats.append(json.dumps({"messages": messages}) + "\n")
    return "".join(chats).encode()


def with_tools(content: bytes) -> bytes:
    """Add a tool definition to each chat, and repeat the first chat."""
    function = {"name": "find_order", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": function}]
    chats = [json.dumps(json.loads(chat) | {"tools": tools}) for chat in content.splitlines()]
    return "".join(f"{chat}\n" for chat in [*chats, chats[0]]).encode()


DIVERGED = """\
INFO step 40/150 loss 9.8127
ERROR LossDiverged: the loss is nan at step 41
"""

OUT_OF_MEMORY = """\
INFO step 130 loss 1.1904
ERROR OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB.
"""
