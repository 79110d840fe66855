"""The view of a job's page, and its replaceable parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from uuid import UUID

from domain.catalog.display_names import DisplayNames
from domain.jobs.lifecycle import Command, Effect, JobStatus, rule
from domain.training.hyperparameters import settings_of
from gateway.backend import Backend
from gateway.billing.service import Runway
from gateway.catalog.service import display_names
from gateway.jobs.names import JobNames, names_of
from gateway.jobs.schemas import CheckpointResponse, JobDetail
from gateway.jobs.service import checkpoints_of, job_details
from gateway.jobs.states import PAUSED, TONES, state_of
from gateway.models.deployments import deployment_answer
from gateway.models.schemas import DeploymentResponse
from gateway.schemas import Money
from gateway.web.rendering import templates
from infrastructure.postgres.store import Connection
from projections import ACCOUNTS, DEPLOYMENTS, JOB_DETAIL
from projections.accounts import accounts_of
from projections.deployments import deployments_of_jobs
from projections.job_detail import CANCELLING, PAUSING, rows_of
from projections.open_meters import burns
from projections.projection import Row

MOVING = ("progress",)
"""Parts that change with every training step, without an event."""

CHECKPOINTS, SAMPLES = "checkpoints", "samples"
"""The only parts that read artifacts. Samples show texts of datasets, so auditors get none."""

PARTS = ("head", "progress", "cost", CHECKPOINTS, "settings", "log-title", "dialogs", "balance")
"""Templates of the elements `job-<name>` and of the balance. All sessions share them."""

VIEWED = (JOB_DETAIL, ACCOUNTS, DEPLOYMENTS)
"""The projections that a view reads."""


@dataclass(frozen=True)
class Balance:
    """The balance of an account in the page header."""

    balance: Money
    depleted: bool
    low: bool
    runway: Runway


@dataclass(frozen=True)
class JobView:
    """The state of a job for its page."""

    job: JobDetail
    account: Balance
    retention_days: int
    load_names: Callable[[], JobNames]
    load_places: Callable[[], DisplayNames]
    load_checkpoints: Callable[[], Sequence[CheckpointResponse]]
    deployments: Mapping[str, DeploymentResponse]
    """Deployments of the job's models, by name."""
    checkpoints_state: object
    """The inputs of the checkpoints part. If they are equal, the part is unchanged."""

    @cached_property
    def names(self) -> JobNames:
        """Display names of the job. The first use reads those of all jobs in the batch."""
        return self.load_names()

    @cached_property
    def checkpoints(self) -> Sequence[CheckpointResponse]:
        """Existing checkpoints with their sample answers, read on first use."""
        return self.load_checkpoints()

    @cached_property
    def places(self) -> DisplayNames:
        """Display names of GPUs and regions, read on first use."""
        return self.load_places()

    @property
    def settings(self) -> Mapping[str, str]:
        """Values of the approved hyperparameters, by title."""
        return settings_of(self.job.hyperparameters)

    @property
    def state(self) -> str:
        return state_of(self.job)

    @property
    def tone(self) -> str:
        return TONES[self.job.status]

    @property
    def paused(self) -> str | None:
        """Reason for the pause, as a heading; None: not paused."""
        reason = self.job.pause_reason
        return None if reason is None else PAUSED[reason].heading

    @property
    def running(self) -> bool:
        """True if the job has GPUs or waits for them."""
        return self.job.status is not JobStatus.PAUSED and not self.job.status.is_final

    @property
    def queued(self) -> bool:
        """True if the job waits for GPUs, so no trainer runs."""
        return self.running and self.job.waiting_since is not None

    @property
    def pausing(self) -> bool:
        return self.job.phase == PAUSING

    @property
    def cancelling(self) -> bool:
        return self.job.phase == CANCELLING

    @property
    def may_pause(self) -> bool:
        effect = rule(self.job.status, Command.PAUSE).effect
        return effect is Effect.PAUSES and not (self.pausing or self.cancelling)

    @property
    def may_cancel(self) -> bool:
        effect = rule(self.job.status, Command.CANCEL).effect
        return effect is Effect.CANCELS and not self.cancelling

    @property
    def may_promote(self) -> bool:
        """True if there is a checkpoint to promote."""
        ended = self.job.status in (JobStatus.CANCELLED, JobStatus.FAILED)
        return ended and bool(self.checkpoints) and not self.job.promoted

    def parts(self, names: Sequence[str] = PARTS) -> dict[str, str]:
        """Render the given parts of the page, or the balance in its header."""
        context = {"view": self, "job": self.job, "account": self.account}
        return {
            name: templates().get_template(f"jobs/job/{name}.html").render(context)
            for name in names
        }


def views_of(backend: Backend, job_ids: Collection[UUID]) -> dict[UUID, JobView]:
    """Return the views of the jobs that the read models have, of any account, by job ID."""
    with backend.pool.connection() as connection:
        rows = rows_of(connection, list(job_ids))
    return {row["job_id"]: view for row, view in zip(rows, _views(backend, rows), strict=True)}


def _views(backend: Backend, rows: Sequence[Row]) -> list[JobView]:
    account_ids = {row["account_id"] for row in rows}
    with backend.pool.connection() as connection:
        deployed = deployments_of_jobs(connection, [row["job_id"] for row in rows])
        balances = _balances(connection, account_ids)
    jobs = job_details(backend, rows)

    @cache
    def names() -> dict[UUID, JobNames]:
        return names_of(backend, jobs)

    @cache
    def places() -> DisplayNames:
        return display_names(backend)

    def view(row: Row, job: JobDetail) -> JobView:
        deployments = {name: deployment_answer(each) for name, each in deployed[job.id].items()}
        statuses = {name: each.status for name, each in deployments.items()}
        return JobView(
            job,
            balances[row["account_id"]],
            backend.settings.checkpoint_retention_days,
            load_names=lambda: names()[job.id],
            load_places=places,
            load_checkpoints=partial(checkpoints_of, backend, row, statuses),
            deployments=deployments,
            checkpoints_state=(row["checkpoints"], deployments, job.best_step, job.status.is_final),
        )

    return [view(row, job) for row, job in zip(rows, jobs, strict=True)]


def _balances(connection: Connection, account_ids: Collection[UUID]) -> dict[UUID, Balance]:
    spending = burns(connection, account_ids)
    return {
        each: Balance(
            Money.of(row["balance_micros"]),
            row["depleted"],
            row["low"],
            Runway.of(row["balance_micros"], spending[each]),
        )
        for each, row in accounts_of(connection, account_ids).items()
    }
