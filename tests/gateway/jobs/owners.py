"""Owners of one job, who use the API, the page of the job, or OpenAI's client."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from fastapi.testclient import TestClient
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from gateway.http.openai_vocabulary import file_name, job_of
from gateway.jobs.describe import MINOR_TOPICS
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.builders.platform_job import PlatformJob
from tests.gateway.web.signed_in import Browser, signed_in

ClientOf = Callable[[Person], OpenAI]


class Owner(PlatformJob):
    """A person with one approved job, and a client of the API."""

    def __init__(
        self, client: TestClient, platform: Platform, dollars: int = 10, *, deploy: bool = False
    ) -> None:
        person, self.form = platform.ready(dollars)
        self.client = client
        order = self.form | {"deploy": deploy}
        approved = client.post("/api/jobs", json=order, headers=person.headers)
        super().__init__(platform, person, job_of(approved.json()["id"]))
        self.path = f"/api/jobs/{self.name}"

    def give(self, command: str, person: Person | None = None, **body: Any) -> Any:
        headers = (person or self.person).headers
        return self.client.post(f"{self.path}/{command}", json=body or None, headers=headers)

    def read(self, path: str = "") -> Any:
        """Return a document of the job."""
        return self.client.get(self.path + path, headers=self.person.headers).json()

    def topics(self) -> list[str]:
        """Return the topics of the timeline, oldest first."""
        return [event["topic"] for event in self.read("/timeline")["data"]]


def notes_in(page: str) -> set[str]:
    """Return the codes of the notes in some HTML."""
    return set(re.findall(r'data-note="([^"]+)"', page))


class Reader(Owner):
    """A user on the page of their job."""

    def __init__(self, client: TestClient, platform: Platform, dollars: int = 10) -> None:
        super().__init__(client, platform, dollars)
        self.browser: Browser = signed_in(client, self.person)
        self.page_path = f"/fine-tune/{self.name}"

    def page(self) -> str:
        """Return the HTML of the page."""
        self.platform.project()
        answer = self.client.get(self.page_path)
        assert answer.status_code == 200, answer.text
        return answer.text

    def text(self) -> str:
        """Return the page without tags."""
        main = self.page().partition("<main")[2].partition("</main>")[0]
        return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", main)))

    def notes(self) -> set[str]:
        """Return the codes of the notes on the page."""
        return notes_in(self.page())

    def topics(self) -> list[str]:
        """Return the topics of the page's timeline, newest first."""
        return re.findall(r'data-topic="([^"]+)"', self.page())

    def post(self, command: str, **fields: str) -> str:
        """Send a form of the page, and return the answer."""
        answer = self.client.post(
            f"{self.page_path}/{command}", headers=self.browser.htmx, data=fields
        )
        assert answer.status_code == 200
        return answer.text


@dataclass
class OpenAIJobs:
    """The jobs of a person with $10 under /v1, and a file."""

    platform: Platform
    person: Person
    dataset_id: UUID
    client: OpenAI

    @classmethod
    def of(cls, platform: Platform, client_of: ClientOf, *, ready: bool = True) -> Self:
        """Return the jobs of a new person, whose file may still be in validation."""
        person, _ = platform.ready()
        return cls(platform, person, platform.dataset(person, ready=ready), client_of(person))

    @property
    def api(self) -> Any:  # openai.resources.fine_tuning.Jobs, without the types of its options
        return self.client.fine_tuning.jobs

    def create(self, **fields: Any) -> FineTuningJob:
        """Create a job on the file."""
        form = {"training_file": file_name(self.dataset_id), "model": BASE_MODEL}
        return self.api.create(**form | fields)


class Trained(PlatformJob):
    """A job under /v1 after six steps of one second, with a checkpoint and evaluation at step 4."""

    total_steps = 6

    def __init__(self, client_of: ClientOf, http: TestClient, platform: Platform) -> None:
        jobs = OpenAIJobs.of(platform, client_of)
        self.client, self.http = jobs.client, http
        super().__init__(platform, jobs.person, job_of(jobs.create(suffix="s").id))
        self.began = datetime.now(UTC)
        self.at(0)
        self.train(checkpoint=None)
        self.measure()
        self.at(4)
        self.save(4, eval_loss=2.25)
        self.at(7)
        platform.project()

    def at(self, second: int) -> None:
        """Set the time of the next events, in seconds since the start."""
        now = self.began + timedelta(seconds=second)
        self.platform.cause = replace(self.platform.cause, now=now)

    def measure(self) -> None:
        """Store the metrics of each step and of the evaluation."""
        for step in range(1, self.total_steps + 1):
            self.add_steps(step, measured_at=self.began + timedelta(seconds=step))
        self.add_evaluation(
            4, eval_loss=2.25, measured_at=self.began + timedelta(seconds=4.5), label_tokens=40
        )

    def timeline(self) -> list[dict[str, Any]]:
        """Return the entries of the native timeline that /v1 also has."""
        self.platform.project()
        path = f"/api/jobs/{self.name}/timeline"
        entries = self.http.get(path, headers=self.person.headers).json()["data"]
        return [each for each in entries if each["topic"] not in MINOR_TOPICS]
