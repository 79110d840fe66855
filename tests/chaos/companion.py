"""Work beside jobs: metrics go to a tracker, models are exported, and datasets are generated.

The tracker and the model that writes examples are local servers without faults of their own.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any
from uuid import UUID

from domain.jobs.public_id import job_name
from tests.chaos.caller import Answer, Caller
from tests.chaos.watcher import Watcher
from tests.localwandb.server import ENTITY, KEY, LocalWandb, running_wandb
from tests.scripted_model import Scripted, scripted

PROJECT = "chaos"
TRACKED = {"type": "wandb", "wandb": {"project": PROJECT}}
"""Integration of a tracked job."""

EXAMPLES = 12
"""Examples of a generated dataset."""

EXPORT_PAUSE, SYNTHESIS_PAUSE = 15.0, 10.0
"""Seconds between two exports, and between two syntheses. Both share the CPUs with jobs."""

ASK_SECONDS = 0.5


@dataclass(frozen=True)
class Providers:
    """The servers of other providers."""

    wandb: LocalWandb
    model: Scripted

    def steps_of(self, job: str) -> list[int]:
        """Return the step of each line that the tracker has of a job, in the order of the lines."""
        run = self.wandb.runs.get((ENTITY, PROJECT, job_name(UUID(job))))
        return [] if run is None else [line["step"] for line in run.history]


@contextmanager
def running_providers() -> Iterator[Providers]:
    """Run the servers until the end of the block."""
    with running_wandb() as wandb, scripted() as model:
        yield Providers(wandb, model)


class Companion:
    """A customer who exports each model, and generates one dataset after another."""

    def __init__(self, caller: Caller, watcher: Watcher, account: str, providers: Providers):
        self._caller, self._watcher, self._account = caller, watcher, account
        self._providers = providers
        self._exported: set[str] = set()
        self._generated = 0
        self._endpoint = ""
        self._connected = Event()

    @property
    def integrations(self) -> list[dict[str, Any]]:
        """Return the integrations of a new job."""
        return [TRACKED] if self._connected.is_set() else []

    def run(self, stopping: Event, abandoned: Event) -> None:
        """Work until the run stops, and then complete what has begun."""
        self._connect()
        works = [self._exports(), self._syntheses()]
        due = [0.0 for _ in works]
        idle = [True for _ in works]
        while not abandoned.is_set():
            now = time.monotonic()
            for place, work in enumerate(works):
                if now < due[place] or (idle[place] and stopping.is_set()):
                    continue
                pause = next(work)
                idle[place] = pause is not None
                due[place] = time.monotonic() + (pause or ASK_SECONDS)
            if stopping.is_set() and all(idle):
                return
            time.sleep(0.1)

    def _connect(self) -> None:
        """Store the credentials of the providers."""
        server = {"url": self._providers.wandb.url, "secret": KEY}
        put = self._caller.send("/trackers/wandb", server, command="connect", method="PUT")
        endpoint = {"name": "scripted", "url": f"{self._providers.model.url}/v1", "key": "sk-1"}
        made = self._caller.send("/synthesis-endpoints", endpoint, command="endpoint")
        if _accepted(put) and _accepted(made):
            self._endpoint = made.body["id"]
            self._connected.set()

    def _exports(self) -> Generator[float | None]:
        """Export one model after another. Yield the pause after each, or None while one runs."""
        while True:
            job = self._unexported()
            if job is not None:
                yield from self._export(job)
            yield EXPORT_PAUSE if job is not None else ASK_SECONDS

    def _unexported(self) -> str | None:
        registered = (
            id
            for id, job in self._watcher.jobs.items()
            if job.status == "registered" and job.account == self._account
        )
        return next((id for id in registered if id not in self._exported), None)

    def _export(self, job: str) -> Generator[None]:
        """Export the model of a job. If it fails, for example for a full disk, export it again."""
        path = f"/models/ft:tiny:{UUID(job).hex[:12]}/exports"
        while True:
            asked = self._caller.send(path, {"format": "safetensors"}, command="export", job=job)
            if asked.status != 404:  # the read model of the models may be late
                break
            yield None
        self._exported.add(job)
        while _accepted(asked):
            found = self._caller.get(f"{path}/safetensors").body
            if found.get("status") == "ready":
                return
            if found.get("status") == "failed":
                self._caller.send(path, {"format": "safetensors"}, command="export", job=job)
            yield None

    def _syntheses(self) -> Generator[float | None]:
        """Generate one dataset after another. Yield the pause after each, or None before."""
        while True:
            yield from self._generate()
            yield SYNTHESIS_PAUSE

    def _generate(self) -> Generator[None]:
        self._generated += 1
        form = {
            "name": f"generated {self._generated}",
            "instructions": f"Talk about subject {self._generated}.",
            "endpoint": self._endpoint,
            "endpoint_model": "scripted",
            "examples": EXAMPLES,
        }
        key = f"synthesis-{self._generated}"
        made = self._caller.send("/syntheses", form, command="synthesis", key=key)
        path = f"/syntheses/{made.body.get('id')}"
        while _accepted(made):
            found = self._caller.get(path).body
            if found.get("status") == "paused":
                self._caller.send(f"{path}/resume", {}, command="resume_synthesis")
            elif found.get("status") == "reviewing":
                self._caller.send(f"{path}/finish", {}, command="finish", made_from=made.body["id"])
                return
            elif found.get("status") not in ("generating", None):
                return
            yield None


def _accepted(answer: Answer) -> bool:
    """Return False if the run was abandoned. Raise RuntimeError if the gateway refused."""
    if answer.status and not answer.ok:
        raise RuntimeError(f"The gateway refused other work than jobs: {answer.body}")
    return answer.ok
