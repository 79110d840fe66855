"""Schemas of fine-tuning jobs under /v1, from a job or from its request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from math import ceil
from typing import Any, Literal
from uuid import UUID

from pydantic import Field, JsonValue

from domain.jobs.failures import FailureClass
from domain.jobs.job_request import JobRequest, RequestStatus
from domain.jobs.lifecycle import JobStatus
from domain.training.cautions import cautions
from domain.training.hyperparameters import DPO, SUPERVISED, Method
from domain.training.integrations import Integration
from gateway.backend import Backend
from gateway.catalog.availability import remaining_seconds, waits_of
from gateway.http import openai_vocabulary as vocabulary
from gateway.http.access import Caller
from gateway.jobs.dataset_warnings import recorded_warnings
from gateway.jobs.launch.integrations import receiver
from gateway.jobs.results import has_results, trained_tokens
from gateway.jobs.schemas import FailureResponse, warnings_of_job
from gateway.jobs.unstarted import refusal_message
from gateway.schemas import ResponseModel, job_name
from infrastructure.accounts.profiles import job_metadata
from infrastructure.training.measurements import last_steps_of
from projections.job_requests import requested_at
from projections.job_timeline import ended_at
from projections.projection import Row

PHASES = {
    RequestStatus.VALIDATING_FILES: RequestStatus.VALIDATING_FILES,
    RequestStatus.APPROVED: RequestStatus.VALIDATING_FILES,  # until its job is visible
    RequestStatus.FAILED: RequestStatus.FAILED,
    RequestStatus.CANCELLED: RequestStatus.CANCELLED,
}


class HyperparametersObject(ResponseModel):
    """The hyperparameters in use, with the actual value instead of `auto`."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float


class SupervisedObject(ResponseModel):
    """Settings of the supervised method."""

    hyperparameters: HyperparametersObject


class DPOHyperparametersObject(HyperparametersObject):
    """The hyperparameters of DPO in use."""

    beta: float


class DPOObject(ResponseModel):
    """Settings of direct preference optimization."""

    hyperparameters: DPOHyperparametersObject


class MethodObject(ResponseModel):
    """The training method of a job, with its settings under the name of the type."""

    type: Method = SUPERVISED
    supervised: SupervisedObject | None = None
    dpo: DPOObject | None = None

    @classmethod
    def of(cls, numbers: HyperparametersObject, recorded: Mapping[str, Any]) -> MethodObject:
        """Return the method of a job from its recorded hyperparameters."""
        if recorded.get("method") != DPO:
            return cls(supervised=SupervisedObject(hyperparameters=numbers))
        own = DPOHyperparametersObject(**numbers.model_dump(), beta=recorded["beta"])
        return cls(type=DPO, dpo=DPOObject(hyperparameters=own))


class ErrorObject(ResponseModel):
    """The failure of a job, with advice."""

    code: str
    message: str = Field(examples=["The GPU ran out of memory."])
    param: str | None


class EcoLinkObject(ResponseModel):
    """Fields that OpenAI's object does not have."""

    status: JobStatus | RequestStatus
    phase: str
    region: str | None = Field(examples=["local"])  # null before approval, like the next two fields
    gpu_type: str | None = Field(examples=["cpu"])
    gpu_count: int
    rate_micros_per_hour: int | None
    cost_micros: int
    max_cost_micros: int | None = Field(
        description="The job pauses before it costs more. Null without a maximum cost."
    )
    guaranteed_micros: int | None = Field(
        description="Charges stop here, and the job goes on. Null before the approval, or without "
        "a price guarantee."
    )
    hyperparameters: dict[str, JsonValue]
    warnings: list[str]


class JobObject(ResponseModel):
    """OpenAI's `fine_tuning.job`."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: ErrorObject | None
    fine_tuned_model: str | None = Field(examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e"])
    finished_at: int | None
    hyperparameters: HyperparametersObject
    model: str = Field(examples=["smollm2-135m-instruct"])
    organization_id: str
    result_files: list[str]
    seed: int
    status: str
    trained_tokens: int | None
    training_file: str = Field(examples=["file-9b2d1c9e6d1f4a539a3e2f1c5d7e8a90"])
    validation_file: str | None
    estimated_finish: int | None
    integrations: list[JsonValue]
    metadata: dict[str, str]
    method: MethodObject
    ecolink: EcoLinkObject


def job_objects(backend: Backend, caller: Caller, rows: Sequence[Row]) -> list[JobObject]:
    """Return the job objects of rows, with metadata and metrics."""
    job_ids: list[UUID] = [row["job_id"] for row in rows]
    with backend.pool.connection() as connection:
        noted, requested = job_metadata(connection, job_ids), requested_at(connection, job_ids)
        tracked = receiver().of_jobs(connection, job_ids)
        ends = ended_at(connection, rows)
        unfinished = [row["job_id"] for row in rows if row["job_id"] not in ends]
        steps = last_steps_of(connection, unfinished)
        about_datasets = recorded_warnings(connection, rows)
    tokens, waits = trained_tokens(backend, rows, ends), waits_of(backend, rows)
    now = backend.clock.now()
    objects: list[JobObject] = []
    for row in rows:
        job_id, validation = row["job_id"], row["validation_dataset_id"]
        end = ends.get(job_id)
        numbers = hyperparameters_object(row["hyperparameters"], row["approved_gpu_count"])
        objects.append(
            JobObject(
                id=job_name(job_id),
                created_at=int((requested.get(job_id) or row["approved_at"]).timestamp()),
                error=_error(row),
                fine_tuned_model=row["model"],
                finished_at=None if end is None else int(end.timestamp()),
                hyperparameters=numbers,
                model=row["continued_from"] or row["base_model"],
                organization_id=vocabulary.organization(caller.account_id),
                result_files=[vocabulary.result_name(job_id)] if has_results(row) else [],
                seed=row["hyperparameters"]["seed"],
                status=vocabulary.job_status(row),
                trained_tokens=tokens.get(job_id),
                training_file=vocabulary.file_name(row["dataset_id"]),
                validation_file=vocabulary.file_name(validation) if validation else None,
                estimated_finish=_estimated_finish(row, steps.get(job_id), waits.get(job_id), now),
                integrations=_integrations(tracked.get(job_id, [])),
                metadata=noted.get(job_id, {}),
                method=MethodObject.of(numbers, row["hyperparameters"]),
                ecolink=_ours(row, about_datasets[job_id]),
            )
        )
    return objects


def _integrations(integrations: Sequence[Integration]) -> list[JsonValue]:
    return [each.model_dump(mode="json") for each in integrations]


def hyperparameters_object(recorded: dict[str, Any], gpu_count: int) -> HyperparametersObject:
    """Translate a job's recorded hyperparameters. `gpu_count` is the approved number of GPUs."""
    return HyperparametersObject(
        n_epochs=recorded["epochs"],
        batch_size=vocabulary.batch_size(recorded, gpu_count),
        learning_rate_multiplier=vocabulary.learning_rate_multiplier(recorded),
    )


def _error(row: Row) -> ErrorObject | None:
    """Return the error of a failed job, without failures before a successful retry."""
    if row["status"] != JobStatus.FAILED or (failed := FailureResponse.of(row)) is None:
        return None
    return ErrorObject(
        code=failed.failure,
        message=f"{failed.sentence} {failed.advice}",
        param="training_file" if failed.failure is FailureClass.BAD_DATA else None,
    )


def _estimated_finish(
    row: Row, last_step: Row | None, wait: float | None, now: datetime
) -> int | None:
    left = remaining_seconds(row, last_step, wait, now)
    return None if left is None else ceil((now + timedelta(seconds=left)).timestamp())


def _ours(row: Row, about_datasets: list[str]) -> EcoLinkObject:
    shown = {name: row[name] for name in EcoLinkObject.model_fields if name in row}
    return EcoLinkObject(
        **shown,
        warnings=[*about_datasets, *warnings_of_job(row)],
        cost_micros=row["charged_micros"] - row["credited_micros"],
    )


def requested_object(backend: Backend, caller: Caller, request: JobRequest) -> JobObject:
    """Return the job object of a request that has no job yet. It has no charges."""
    choices, status = request.choices, PHASES[request.status]
    with backend.pool.connection() as connection:
        noted = job_metadata(connection, [request.job_id])
        tracked = receiver().of_jobs(connection, [request.job_id])
    numbers = hyperparameters_object(request.hyperparameters, choices.gpu_count)
    validation = choices.validation_dataset_id
    ended = status is not RequestStatus.VALIDATING_FILES
    return JobObject(
        id=job_name(request.job_id),
        created_at=int(request.created_on.timestamp()),
        error=_refusal(backend, caller, request),
        fine_tuned_model=None,
        finished_at=int(request.modified_on.timestamp()) if ended else None,
        hyperparameters=numbers,
        model=choices.base_model,
        organization_id=vocabulary.organization(request.account_id),
        result_files=[],
        seed=choices.hyperparameters.seed,
        status=status,
        trained_tokens=None,
        training_file=vocabulary.file_name(choices.dataset_id),
        validation_file=vocabulary.file_name(validation) if validation else None,
        estimated_finish=None,
        integrations=_integrations(tracked.get(request.job_id, [])),
        metadata=noted.get(request.job_id, {}),
        method=MethodObject.of(numbers, request.hyperparameters),
        ecolink=EcoLinkObject(
            status=status,
            phase=status,
            region=choices.region or None,
            gpu_type=choices.gpu_type or None,
            gpu_count=choices.gpu_count,
            rate_micros_per_hour=None,
            cost_micros=0,
            max_cost_micros=request.order.max_cost_micros,
            guaranteed_micros=None,
            hyperparameters=request.hyperparameters,
            warnings=cautions(choices.hyperparameters),
        ),
    )


def _refusal(backend: Backend, caller: Caller, request: JobRequest) -> ErrorObject | None:
    if (refusal := request.refusal) is None:
        return None
    return ErrorObject(
        code=refusal.code,
        message=refusal_message(backend, caller, request, refusal),
        param=None if refusal.field is None else vocabulary.parameter(refusal.field),
    )
