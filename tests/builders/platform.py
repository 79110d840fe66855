"""A platform with account holders, datasets, base models and GPU pools, made by its use cases."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.suspension import SuspensionReason
from domain.capacity.gpu_pool import Claim, GpuPool
from domain.catalog.base_model import BaseModel
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.core.identity import gpu_pool_id
from domain.datasets.columns import columns_from
from domain.datasets.dataset import Contents, Dataset, DatasetKind
from domain.deployments.deployment import Deployment
from domain.training.token_lengths import LabelTokens, TokenLengths
from domain.use_cases.accounts import EcoLink
from domain.use_cases.deployments import Deploying
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from services.datasets.line_numbers import LINES
from services.datasets.unpacking import Sizes
from services.datasets.validating import conclude, refs_of
from services.datasets.validation import SAMPLE, Choices, validate_file
from tests.builders.examples import revision
from tests.builders.tiny_model import CHAT_TEMPLATE, TINY_SHAPE, make_tiny_tokenizer
from tests.projecting import project

BASE_MODEL = "tiny"
DOLLAR = 1_000_000


@dataclass(frozen=True)
class Person:
    """An account holder with a key."""

    account_id: UUID
    key_id: UUID
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


LENGTHS = TokenLengths.of([50] * 10).model_copy(
    update={"labels": LabelTokens.of_counts(dict.fromkeys(range(41, 51), 10), {41: 10})}
)
"""Ten examples of 50 tokens, of which the last ten are trainable."""

REJECTION = (
    b'{"status": "rejected", "examples": 0, "duplicates": 0, "lines": 3, "bytes": 9,'
    b' "warnings": [], "errors": [{"line": 3, "code": "invalid_json", "message": "no JSON"}],'
    b' "error_count": 1}'
)
"""The validation report of a rejected dataset."""


@dataclass
class Platform:
    """Creates test data directly through the use cases."""

    settings: Settings
    log: EventLog
    cause: Cause = field(
        default_factory=lambda: Cause("service:test", str(uuid4()), datetime.now(UTC))
    )

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.settings.artifacts)

    @property
    def ecolink(self) -> EcoLink:
        return EcoLink(self.log)

    @property
    def deploying(self) -> Deploying:
        return Deploying(self.log)

    def person(self, role: Role = Role.OWNER, dollars: int = 0) -> Person:
        account_id = uuid4()
        with because(self.cause):
            self.ecolink.open_account(account_id, role)
            if dollars:
                self.ecolink.grant_credit(account_id, dollars * DOLLAR, "given")
            key, secret = self.ecolink.issue_key(account_id)
        return Person(account_id, key.id, secret)

    def key(self, account_id: UUID, wanted: KeyRequest) -> Person:
        """Issue another key of an account."""
        with because(self.cause):
            key, secret = self.ecolink.issue_key(account_id, wanted)
        return Person(account_id, key.id, secret)

    def ready(self, dollars: int = 10) -> tuple[Person, dict[str, Any]]:
        """Return a person with a ready dataset, and the request body of a job on it."""
        person = self.person(dollars=dollars)
        self.base_model()
        return person, {"dataset": str(self.dataset(person)), "base_model": BASE_MODEL}

    def revoke(self, person: Person) -> None:
        with because(self.cause):
            self.ecolink.revoke_key(person.account_id, person.key_id)

    def suspend(self, person: Person, reason: SuspensionReason = SuspensionReason.PAYMENT) -> None:
        with because(self.cause):
            self.ecolink.suspend(person.account_id, reason)

    def reinstate(self, person: Person) -> None:
        with because(self.cause):
            self.ecolink.reinstate(person.account_id)

    def dataset(
        self, person: Person, *, ready: bool = True, kind: DatasetKind = DatasetKind.CHATS
    ) -> UUID:
        dataset_id = uuid4()
        with because(self.cause):
            dataset = Dataset.uploaded(dataset_id, person.account_id, "uploads/x", "00", 100)
            self.log.commit(dataset)
        if ready:
            self.validate(dataset_id, kind=kind)
        return dataset_id

    def upload(self, account_id: UUID, content: bytes) -> UUID:
        """Store a file and record its upload, now."""
        dataset_id, sha256 = uuid4(), hashlib.sha256(content).hexdigest()
        ref = f"uploads/{dataset_id}"
        self.artifacts.put(ref, content)
        with because(replace(self.cause, now=datetime.now(UTC))):
            self.log.commit(Dataset.uploaded(dataset_id, account_id, ref, sha256, len(content)))
        return dataset_id

    def validate_upload(self, dataset_id: UUID, tool_lines: int = 0) -> None:
        """Validate a stored file, like the datasets service.

        `tool_lines` is the number of lines that lose their tool definitions.
        """
        with because(self.cause):
            dataset, examples = self.log.load(Dataset, dataset_id), bytearray()
            artifacts = self.artifacts
            with TemporaryDirectory() as directory:
                report = validate_file(
                    artifacts.local_file(dataset.upload_ref, Path(directory)),
                    examples.extend,
                    directory=Path(directory),
                    on_progress=id,
                    sizes=Sizes(10**9, 10**9),
                    choices=Choices(
                        dataset.options,
                        columns_from(artifacts.get(dataset.columns_ref))
                        if dataset.columns_ref
                        else None,
                    ),
                )
                for name in (SAMPLE, LINES):
                    if (file := Path(directory) / name).exists():
                        artifacts.put_file(f"{dataset.home}/{name}", file)
            report_ref, examples_ref = refs_of(dataset)
            report = report.model_copy(update={"tool_lines": tool_lines})
            artifacts.put(report_ref, report.model_dump_json().encode())
            artifacts.put(examples_ref, bytes(examples))
            conclude(dataset, report)
            self.log.commit(dataset)

    def validate(
        self, dataset_id: UUID, *, counted: bool = True, kind: DatasetKind = DatasetKind.CHATS
    ) -> None:
        """Validate a dataset with ten examples, and count its tokens for the base model."""
        with because(self.cause):
            dataset = self.log.load(Dataset, dataset_id)
            content, report = dataset_id.hex * 2, "datasets/x/report.json"
            dataset.validate(
                "datasets/x/examples.jsonl", content, Contents(10, 1, kind=kind), report
            )
            self.log.commit(dataset)
        if counted:
            self.count(dataset_id)

    def count(self, dataset_id: UUID) -> None:
        """Count the tokens of a validated dataset for the base model."""
        with because(self.cause):
            dataset = self.log.load(Dataset, dataset_id)
            dataset.record_tokens(BASE_MODEL, "22", LENGTHS)
            self.log.commit(dataset)

    def reject(self, dataset_id: UUID) -> None:
        """Reject a dataset, with a report of an error in line 3."""
        report = "datasets/rejected/report.json"
        Artifacts(self.settings.artifacts).put(report, REJECTION)
        with because(self.cause):
            dataset = self.log.load(Dataset, dataset_id)
            dataset.reject(1, report)
            self.log.commit(dataset)
        self.project()

    def base_model(self, name: str = BASE_MODEL) -> None:
        with because(self.cause):
            self.ecolink.import_base_model(name, revision(manifest_sha256="22"))
        self.deploy_base(name)
        self.open_pool("cpu", 2)

    def store_base(
        self, name: str = BASE_MODEL, template: str = CHAT_TEMPLATE, context: int = 64
    ) -> BaseModel:
        """Import a base model of which only the tokenizer is stored."""
        with TemporaryDirectory() as directory, because(self.cause):
            make_tiny_tokenizer(template).save_pretrained(directory)
            ref = f"models/{name}"
            manifest = self.artifacts.put_directory(ref, Path(directory))
            shape = TINY_SHAPE.model_copy(update={"context_length": context})
            content = revision(ref=ref, manifest_sha256=manifest.sha256, shape=shape)
            return self.ecolink.import_base_model(name, content)

    def deploy_base(self, name: str = BASE_MODEL) -> None:
        """Deploy the base model and activate the deployment."""
        with because(self.cause):
            self.activate(self.deploying.deploy_base(name))

    def activate(self, deployment: Deployment) -> None:
        with because(self.cause):
            deployment.activate()
            self.log.commit(deployment)

    def open_pool(self, gpu_type: str, capacity: int) -> None:
        """Add free GPUs to a pool."""
        with because(self.cause):
            if self.log.find(GpuPool, gpu_pool_id("local", gpu_type)) is None:
                pool = GpuPool.open("local", gpu_type)
                pool.change_capacity(capacity)
                self.log.commit(pool)

    def credit(self, person: Person, amount_micros: int) -> None:
        with because(self.cause):
            self.ecolink.grant_credit(person.account_id, amount_micros, str(uuid4()))

    def spend(self, person: Person, *, left_micros: int = 0) -> None:
        """Use up the balance with a segment, except for `left_micros`."""
        with because(self.cause):
            account = self.log.load(Account, person.account_id)
            spent = account.available_micros - left_micros
            account.settle(captured_micros=spent, reserved_micros=spent)
            self.log.commit(account)

    def topics(self) -> list[str]:
        """Return the topics of all events in the log."""
        return [each.topic for each in self.log.recorder.select_notifications(start=1, limit=1000)]

    def occupy(self, count: int = 1) -> None:
        """Occupy GPUs with a segment of another account."""
        with because(self.cause):
            pool = self.log.load(GpuPool, gpu_pool_id("local", "cpu"))
            claim = Claim(uuid4(), uuid4(), 1, count)
            pool.request(claim)
            pool.allocate(claim)
            self.log.commit(pool)

    def project(self) -> None:
        """Update every projection."""
        with connect(self.settings) as connection:
            project(self.log, connection)
