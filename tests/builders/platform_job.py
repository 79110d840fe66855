"""A job that was approved on the platform, and the steps of its trainer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from domain.billing.meter import Meter
from domain.core.aggregate import because
from domain.core.identity import deployment_id
from domain.deployments.deployment import Deployment
from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.job import Job, SegmentEnd
from gateway.schemas import job_name
from infrastructure.postgres.store import connect
from infrastructure.training.measurements import add_evaluation, add_log_line, add_step
from infrastructure.training.reports import EvaluationMeasured, LogLine, StepMeasured
from tests.builders.examples import ending, evaluation_result, saved_checkpoint
from tests.builders.platform import Person, Platform

SHORTAGE = MemoryShortage(
    rows=4, tokens=90, micro_batch_size=4, gradient_accumulation=4, peak_bytes=10**9
)


class PlatformJob:
    """A person's job of 30 steps. Its commands are in the log as soon as a method returns."""

    total_steps = 30

    def __init__(self, platform: Platform, person: Person, job_id: UUID) -> None:
        self.platform, self.person, self.job_id = platform, person, job_id

    @property
    def name(self) -> str:
        return job_name(self.job_id)

    @property
    def job(self) -> Job:
        """Return the job from the log."""
        return self.platform.log.load(Job, self.job_id)

    def act(self, *commands: Callable[[Job], object]) -> None:
        """Run commands on the job, and commit them together."""
        with because(self.platform.cause):
            job = self.job
            for command in commands:
                command(job)
            self.platform.log.commit(job)

    def train(self, segment: int = 1, *, checkpoint: int | None = 10) -> None:
        """Train a segment and save a checkpoint."""
        self.act(
            lambda job: job.allocate_segment(segment),
            lambda job: job.start_pod(segment, "pod", datetime.now(UTC)),
            lambda job: job.start_training(segment, 0, self.total_steps, 9, 1),
        )
        if checkpoint is not None:
            self.save(checkpoint, segment, "checkpoints/1")

    def save(
        self, step: int, segment: int = 1, ref: str = "", sha256: str = "c" * 64, **fields: Any
    ) -> None:
        """Save a checkpoint."""
        saved = saved_checkpoint(segment, step, 2.0, 5, ref, sha256, total_bytes=9, **fields)
        self.act(lambda job: job.save_checkpoint(saved))

    def end(self, segment: int = 1, reason: SegmentEnd = SegmentEnd.STOPPED, **fields: Any) -> None:
        """End a segment after 10 seconds."""
        shortfall = fields.pop("shortfall", None)
        self.act(
            lambda job: job.end_segment(segment, ending(reason, 10, **fields), shortfall=shortfall)
        )

    def bill(self, segment: int, seconds: int) -> None:
        """Bill a segment for some seconds, without a charge to the account."""
        with because(self.platform.cause):
            meter = Meter.open(self.job.account_id, self.job_id, segment, self.rate)
            meter.extend_lease(seconds)
            meter.close(seconds, 60)
            self.platform.log.commit(meter)

    @property
    def rate(self) -> int:
        """Micro-dollars per hour."""
        return self.job.rate_micros_per_hour

    def crash(self, failure: FailureClass, segment: int = 1, **fields: Any) -> None:
        self.end(segment, SegmentEnd.CRASHED, failure=failure, **fields)

    def run_out_of_memory(self, segment: int = 1) -> None:
        self.crash(FailureClass.OUT_OF_MEMORY, segment, shortage=SHORTAGE)

    def evaluate(self) -> None:
        """Finish the last step, and start the evaluation."""
        self.act(lambda job: job.start_evaluation(1, self.total_steps))

    def score(self, **fields: Any) -> None:
        """Complete the evaluation."""
        accuracies = {"accuracy_before": 0.25, "accuracy_after": 0.5}
        result = evaluation_result(2.5, 1.25, 9, 90, **accuracies, **fields)
        self.act(lambda job: job.complete_evaluation(1, result, peak_memory_bytes=10))

    def register(self, ref: str = "jobs/a/adapter", sha256: str = "a" * 64) -> str:
        """Evaluate and register the training job. Return the name of its model."""
        self.evaluate()
        self.score()
        self.act(lambda job: job.register(1, ref, sha256))
        return self.job.model_name

    def add_steps(self, *steps: int, segment: int = 1, **fields: Any) -> None:
        """Store metrics of steps. The train loss of step 10 is 1.9."""
        with connect(self.platform.settings) as connection:
            for step in steps:
                measured = {
                    "total_steps": self.total_steps,
                    "train_loss": 2 - step / 100,
                    "smoothed_loss": 3 - step / 100,
                    "learning_rate": 2e-4,
                    "tokens": 100,
                    "tokens_per_second": 1234.0,
                    "elapsed_seconds": float(step),
                    "measured_at": datetime.now(UTC),
                }
                measured |= self._place(segment) | {"step": step} | fields
                add_step(connection, StepMeasured(**measured))

    def evaluation(self, step: int, segment: int = 1, **fields: Any) -> EvaluationMeasured:
        """Return the metrics of an evaluation with a loss of 1.75."""
        measured = {
            "eval_loss": 1.75,
            "accuracy": 0.5,
            "examples": 1,
            "label_tokens": 9,
            "seconds": 1.0,
            "elapsed_seconds": 9.0,
            "measured_at": datetime.now(UTC),
        }
        return EvaluationMeasured(**measured | self._place(segment) | {"step": step} | fields)

    def add_evaluation(self, step: int, segment: int = 1, **fields: Any) -> None:
        """Store the metrics of an evaluation."""
        with connect(self.platform.settings) as connection:
            add_evaluation(connection, self.evaluation(step, segment, **fields))

    def add_lines(self, first: int, *texts: str) -> None:
        """Store lines of the first segment's log, numbered from `first`."""
        with connect(self.platform.settings) as connection:
            for n, text in enumerate(texts, first):
                line = {"n": n, "level": "INFO", "text": text, "logged_at": datetime.now(UTC)}
                add_log_line(connection, LogLine(**self._place(1) | line))

    def serve(self, model: str) -> None:
        """Activate the deployment of a model or checkpoint."""
        self.platform.activate(self._deployment(model))

    def fail_deployment(self, model: str) -> None:
        with because(self.platform.cause):
            deployment = self._deployment(model)
            deployment.fail("serving_died", f"It died with {model}.")
            self.platform.log.commit(deployment)

    def _deployment(self, model: str) -> Deployment:
        return self.platform.log.load(Deployment, deployment_id(self.person.account_id, model))

    def _place(self, segment: int) -> dict[str, Any]:
        return {"account_id": self.person.account_id, "job_id": self.job_id, "segment": segment}
