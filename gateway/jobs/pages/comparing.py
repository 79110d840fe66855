"""The page that compares two jobs: curves, results and different settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from domain.catalog.display_names import DisplayNames
from domain.core.durations import spoken
from domain.training.hyperparameters import title_of, written
from gateway.backend import BackendOf
from gateway.catalog.service import display_names
from gateway.http.permissions import MayRead
from gateway.jobs.names import SHORT, JobNames, names_of
from gateway.jobs.schemas import JobDetail
from gateway.jobs.service import job_detail, list_jobs
from gateway.jobs.states import state_of
from gateway.schemas import JobId
from gateway.web.amounts import written_amount
from gateway.web.rendering import dataset_link, page

MOST_CHOICES = 100  # number of newest jobs that the page offers for comparison

router = APIRouter(prefix="/fine-tune/compare")


@dataclass(frozen=True)
class Line:
    """A row of the table: a label, and the value of each job."""

    label: str
    values: tuple[str, ...]

    @classmethod
    def of(
        cls, label: str, jobs: Sequence[JobDetail], value_of: Callable[[JobDetail], str | None]
    ) -> Line:
        """Return the line of a value. A missing value is a dash."""
        return cls(label, tuple(value_of(job) or "—" for job in jobs))

    @property
    def differs(self) -> bool:
        """True if the jobs have different values."""
        return len(set(self.values)) > 1


@router.get("")
def compare_jobs(
    request: Request,
    caller: MayRead,
    backend: BackendOf,
    jobs: Annotated[list[JobId] | None, Query(max_length=10)] = None,
) -> Response:
    """Compare two jobs. For any other number, ask the user to select two.

    Raise NotFound for an unknown job.
    """
    chosen = [job_detail(backend, caller, job_id) for job_id in dict.fromkeys(jobs or ())]
    both = chosen if len(chosen) == 2 else []
    choices = list_jobs(backend, caller, MOST_CHOICES).data
    listed = {job.id for job in choices}
    choices = [*choices, *(job for job in chosen if job.id not in listed)]
    names = names_of(backend, choices)
    return page(
        request,
        backend,
        caller,
        "jobs/compare.html",
        chosen=chosen,
        both=both,
        choices=choices,
        names=names,
        titles=_titles(both, names),
        results=[*_results(both), *_choices(both, names, display_names(backend))] if both else [],
        settings=[line for line in _settings(both) if line.differs] if both else [],
    )


def _titles(jobs: Sequence[JobDetail], names: Mapping[UUID, JobNames]) -> list[str]:
    """Return the titles of the jobs. If names are equal, include the IDs."""
    titles = [names[job.id].title for job in jobs]
    if len(set(titles)) == len(titles):
        return titles
    return [f"{names[job.id].title} {job.id.hex[:SHORT]}" for job in jobs]


def _results(jobs: Sequence[JobDetail]) -> Iterator[Line]:
    for label, value_of in (
        ("Status", state_of),
        ("Steps", lambda job: _of(job.step, job.total_steps)),
        ("Train loss, last step", lambda job: _loss(job.train_loss)),
        ("Smoothed train loss, last step", lambda job: _loss(job.smoothed_loss)),
        ("Held-out loss, base model", lambda job: _loss(job.loss_before)),
        ("Held-out loss, last", lambda job: _loss(job.eval_loss)),
        ("Held-out loss, best", _best),
        *_rewards(jobs),
        ("Cost", lambda job: written_amount(job.cost)),
        ("Billed time", lambda job: spoken(job.billed_seconds)),
    ):
        yield Line.of(label, jobs, value_of)


def _rewards(jobs: Sequence[JobDetail]) -> Iterator[tuple[str, Callable[[JobDetail], str | None]]]:
    if any(job.reward_margin is not None for job in jobs):
        yield "Reward margin, held-out", lambda job: _loss(job.reward_margin)
        yield "Pairs correct, held-out", _correct


def _correct(job: JobDetail) -> str | None:
    if job.reward_margin is None or job.accuracy_after is None:
        return None
    return f"{job.accuracy_after:.1%}"


def _choices(
    jobs: Sequence[JobDetail], names: Mapping[UUID, JobNames], places: DisplayNames
) -> Iterator[Line]:
    """Yield the choices of both jobs, without the validation dataset if neither job has one."""

    def dataset(job: JobDetail) -> str:
        return dataset_link(job.dataset_id, names[job.id].dataset)

    def validation(job: JobDetail) -> str:
        if job.validation_dataset_id is None:
            return "a part of the dataset"
        return dataset_link(job.validation_dataset_id, names[job.id].validation_dataset)

    yield Line.of("Base model", jobs, lambda job: job.base_model)
    yield Line.of("Dataset", jobs, dataset)
    if any(job.validation_dataset_id is not None for job in jobs):
        yield Line.of("Validation dataset", jobs, validation)
    yield Line.of("GPUs", jobs, lambda job: places.gpus(job.gpu_count, job.gpu_type))
    yield Line.of("Region", jobs, lambda job: places.region(job.region))
    yield Line.of("Precision", jobs, lambda job: str(job.precision))


def _settings(jobs: Sequence[JobDetail]) -> Iterator[Line]:
    for name in dict.fromkeys(name for job in jobs for name in job.hyperparameters):
        values = tuple(written(job.hyperparameters.get(name), name) for job in jobs)
        yield Line(title_of(name), values)


def _of(step: int, total: int | None) -> str:
    return f"{step:,} of {total:,}" if total is not None else f"{step:,}"


def _loss(loss: float | None) -> str | None:
    return None if loss is None else f"{loss:z.4f}"


def _best(job: JobDetail) -> str | None:
    if job.best_eval_loss is None:
        return None
    return f"{job.best_eval_loss:.4f} at step {job.best_step:,}"
