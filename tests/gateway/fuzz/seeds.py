"""An account with objects in every state, so that requests do not all return 404."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import httpx
from fastapi.testclient import TestClient

from domain.access.role import Role
from domain.core.aggregate import because
from domain.datasets.dataset import Dataset, DatasetStatus
from gateway.http.openai_vocabulary import file_name, job_of
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect
from services.datasets.report import Report
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.builders.platform_job import PlatformJob
from tests.extension_modules import extension_modules
from tests.gateway.jobs.owners import Owner

FILES = ("adapter_model.safetensors", "adapter_config.json")
ADAPTER_REF, CHECKPOINT_REF = "jobs/a/adapter", "checkpoints/1"


class JobOf(Owner):
    """Another job of a person."""

    def __init__(
        self, client: httpx.Client | TestClient, platform: Platform, person: Person, dataset: UUID
    ) -> None:
        self.client = client  # type: ignore[assignment]
        form = {"dataset": str(dataset), "base_model": BASE_MODEL, "wait": True}
        approved = client.post("/api/jobs", json=form, headers=person.headers)
        assert approved.is_success, approved.text
        PlatformJob.__init__(self, platform, person, job_of(approved.json()["id"]))
        self.path = f"/api/jobs/{self.name}"


def seed(client: httpx.Client | TestClient, platform: Platform) -> dict[str, Any]:
    """Fill the gateway's database. Return the callers' keys and the existing IDs by parameter."""
    operator, user = platform.person(Role.OPERATOR, dollars=1000), platform.person(dollars=1)
    platform.base_model()
    _store_files(platform)
    ready = [platform.dataset(operator) for _ in range(6)]
    datasets = [*ready, platform.dataset(operator, ready=False), _rejected(platform, operator)]
    jobs = {state: JobOf(client, platform, operator, ready[0]) for state in STATES}
    models = [_bring_into_states(jobs)]
    _park_event(platform)
    with because(platform.cause):
        spare, _ = platform.ecolink.issue_key(operator.account_id)
    of_extensions: dict[str, list[Any]] = {}
    for each in extension_modules("seeds"):
        of_extensions |= each.seed(client, operator)
    platform.project()
    names = [job.path.rpartition("/")[2] for job in jobs.values()]
    every_dataset = [str(dataset) for dataset in datasets]
    return {
        "keys": [*[operator.key] * 8, user.key, None],
        "ids": {
            "job_id": names,
            "job": names,
            "/api/events after": [0, 1, 20],
            "/api/jobs after": names,
            "/api/datasets after": every_dataset,
            "dataset_id": every_dataset,
            "dataset": [str(dataset) for dataset in ready],
            "validation_dataset": [str(ready[1])],
            "model": [*models, BASE_MODEL],
            "key_id": [str(spare.id)],
            **of_extensions,
            "step": [10],
            "path": [*FILES, "manifest.json"],
            "account_id": [str(operator.account_id), str(user.account_id)],
            "consumer": ["billing"],
            "notification_id": [7],
            "name": [BASE_MODEL],
            "base_model": [BASE_MODEL],
            "region": ["local"],
            "gpu_type": ["cpu"],
            "amount": ["25.00"],
            "file_id": [file_name(dataset) for dataset in datasets],
            "training_file": [file_name(dataset) for dataset in ready],
        },
    }


STATES = ("waiting", "training", "paused", "cancelled", "promoted", "registered")


def _bring_into_states(jobs: Mapping[str, JobOf]) -> str:
    """Move every job but the queued one to its state. Return a model's name."""
    for state in STATES[1:]:
        if state != "paused":
            jobs[state].train()
            jobs[state].add_steps(1, 2)
            jobs[state].add_lines(1, "step 1", "step 2")
    jobs["paused"].give("pause")
    for state in ("cancelled", "promoted"):
        jobs[state].give("cancel")
        jobs[state].end()
    jobs["promoted"].give("promote")
    return jobs["registered"].register(ADAPTER_REF)


def _store_files(platform: Platform) -> None:
    store = Artifacts(platform.settings.artifacts)
    with TemporaryDirectory() as folder:
        for name in FILES:
            (Path(folder) / name).write_bytes(b"x" * 3000)
        for ref in (ADAPTER_REF, CHECKPOINT_REF):
            store.put_directory(ref, Path(folder))
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    store.put("uploads/x", json.dumps({"messages": chat}).encode())
    store.put("datasets/x/examples.jsonl", json.dumps({"messages": chat}).encode())
    report = Report(
        status=DatasetStatus.READY_FOR_TRAINING,
        examples=10,
        duplicates=1,
        lines=11,
        bytes=100,
        sha256="00",
        normalized_bytes=90,
        warnings=(),
        errors=(),
        error_count=0,
    )
    store.put("datasets/x/report.json", report.model_dump_json().encode())


def _rejected(platform: Platform, person: Person) -> UUID:
    dataset_id = uuid4()
    with because(platform.cause):
        dataset = Dataset.uploaded(dataset_id, person.account_id, "uploads/y", "00", 100)
        dataset.reject(3, "datasets/x/report.json")
        platform.log.commit(dataset)
    return dataset_id


def _park_event(platform: Platform) -> None:
    with connect(platform.settings) as connection:
        connection.execute(
            "INSERT INTO parked_events VALUES ('billing', 7, %s, 'JobApproved', 'it failed')",
            [uuid4()],
        )
