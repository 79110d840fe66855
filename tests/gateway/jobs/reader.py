"""A user on the page of their job, and measurements of its trainer."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime

from fastapi.testclient import TestClient

from domain.core.aggregate import because
from domain.core.identity import deployment_id
from domain.deployments.deployment import Deployment
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job, SegmentEnd
from infrastructure.reports import EvaluationMeasured, LogLine, StepMeasured
from tests.builders.examples import ending, evaluation_result
from tests.builders.platform import Platform
from tests.gateway.jobs.test_commands import Owner
from tests.gateway.web.signed_in import Browser, signed_in


def notes_in(page: str) -> set[str]:
    """Return the codes of the notes in some HTML."""
    return set(re.findall(r'data-note="([^"]+)"', page))


class Reader(Owner):
    """A user on the page of their job."""

    def __init__(self, client: TestClient, platform: Platform, dollars: int = 10) -> None:
        super().__init__(client, platform, dollars)
        self.browser: Browser = signed_in(client, self.person)
        self.page_path = f"/fine-tune/ftjob-{self.job_id.hex}"

    def text(self) -> str:
        """Return the page without tags."""
        self.platform.project()
        answer = self.client.get(self.page_path)
        assert answer.status_code == 200, answer.text
        main = answer.text.partition("<main")[2].partition("</main>")[0]
        return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", main)))

    def page(self) -> str:
        """Return the HTML of the page."""
        self.platform.project()
        return self.client.get(self.page_path).text

    def notes(self) -> set[str]:
        """Return the codes of the notes on the page."""
        return notes_in(self.page())

    def topics(self) -> list[str]:
        """Return the topics of the page's timeline, newest first."""
        return re.findall(r'data-topic="([^"]+)"', self.page())

    def post(self, command: str, **fields: str) -> str:
        answer = self.client.post(
            f"{self.page_path}/{command}", headers=self.browser.htmx, data=fields
        )
        assert answer.status_code == 200
        return answer.text

    def evaluate(self) -> None:
        with because(self.platform.cause):
            job = self.platform.log.load(Job, self.job_id)
            job.start_evaluation(1, 30)
            self.platform.log.commit(job)

    def score(self) -> None:
        with because(self.platform.cause):
            job = self.platform.log.load(Job, self.job_id)
            job.complete_evaluation(
                1,
                evaluation_result(2.5, 1.25, 9, 90, accuracy_before=0.25, accuracy_after=0.5),
                peak_memory_bytes=10,
            )
            self.platform.log.commit(job)

    def register(self) -> None:
        self.train()
        self.evaluate()
        self.score()
        with because(self.platform.cause):
            job = self.platform.log.load(Job, self.job_id)
            job.register(1, "adapters/1", "c" * 64)
            job.end_segment(1, ending(SegmentEnd.COMPLETED, 90))
            self.platform.log.commit(job)

    def serve(self, model: str) -> None:
        """Activate the deployment of a name."""
        own = deployment_id(self.person.account_id, model)
        self.platform.activate(self.platform.log.load(Deployment, own))

    def fail_deployment(self, model: str) -> None:
        with because(self.platform.cause):
            own = deployment_id(self.person.account_id, model)
            deployment = self.platform.log.load(Deployment, own)
            deployment.fail("serving_died", f"It died with {model}.")
            self.platform.log.commit(deployment)

    def crash(self, failure: FailureClass, segment: int = 1) -> None:
        with because(self.platform.cause):
            job = self.platform.log.load(Job, self.job_id)
            job.end_segment(
                segment,
                ending(SegmentEnd.CRASHED, 10, failure=failure, error_class="Diverged"),
            )
            self.platform.log.commit(job)


def measured(owner: Owner, step: int, segment: int = 1) -> StepMeasured:
    return StepMeasured(
        account_id=owner.person.account_id,
        job_id=owner.job_id,
        segment=segment,
        step=step,
        total_steps=30,
        train_loss=2 - step / 100,
        smoothed_loss=3 - step / 100,
        learning_rate=2e-4,
        tokens=100,
        tokens_per_second=1000,
        elapsed_seconds=step,
        measured_at=datetime.now(UTC),
    )


def evaluated(owner: Owner, step: int, segment: int = 1) -> EvaluationMeasured:
    return EvaluationMeasured(
        account_id=owner.person.account_id,
        job_id=owner.job_id,
        segment=segment,
        step=step,
        eval_loss=1.75,
        accuracy=0.5,
        examples=1,
        label_tokens=9,
        seconds=1,
        elapsed_seconds=9,
        measured_at=datetime.now(UTC),
    )


def line(owner: Owner, n: int, text: str) -> LogLine:
    return LogLine(
        account_id=owner.person.account_id,
        job_id=owner.job_id,
        segment=1,
        n=n,
        level="INFO",
        text=text,
        logged_at=datetime.now(UTC),
    )
