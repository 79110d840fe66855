"""A request for a job as OpenAI's `fine_tuning.job`, before it is approved or without it."""

from __future__ import annotations

from domain.jobs.job_request import JobRequest, RequestStatus
from gateway.backend import Backend
from gateway.http import openai_vocabulary as vocabulary
from gateway.jobs.openai.objects import (
    EcoLinkObject,
    ErrorObject,
    JobObject,
    MethodObject,
    SupervisedObject,
    hyperparameters_object,
)
from gateway.jobs.openai.readiness import FileRejected, explained, files_of
from gateway.schemas import job_name
from infrastructure.profiles import job_metadata

PHASES = {
    RequestStatus.VALIDATING_FILES: RequestStatus.VALIDATING_FILES,
    RequestStatus.APPROVED: RequestStatus.VALIDATING_FILES,  # until its job can be read
    RequestStatus.FAILED: RequestStatus.FAILED,
    RequestStatus.CANCELLED: RequestStatus.CANCELLED,
}


def requested_object(backend: Backend, request: JobRequest) -> JobObject:
    """A request that has no job; nothing was charged for it."""
    choices, status = request.choices, PHASES[request.status]
    with backend.pool.connection() as connection:
        noted = job_metadata(connection, [request.job_id])
    numbers = hyperparameters_object(request.hyperparameters, choices.gpu_count)
    validation = choices.validation_dataset_id
    ended = status is not RequestStatus.VALIDATING_FILES
    return JobObject(
        id=job_name(request.job_id),
        created_at=int(request.created_on.timestamp()),
        error=_error(backend, request),
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
        integrations=[],
        metadata=noted.get(request.job_id, {}),
        method=MethodObject(supervised=SupervisedObject(hyperparameters=numbers)),
        ecolink=EcoLinkObject(
            status=status,
            phase=status,
            region=request.region,
            gpu_type=request.gpu_type,
            gpu_count=choices.gpu_count,
            rate_micros_per_hour=None,
            cost_micros=0,
            hyperparameters=request.hyperparameters,
            warnings=[],
        ),
    )


def _error(backend: Backend, request: JobRequest) -> ErrorObject | None:
    """The refusal of a failed request; a rejected file's first errors come from its report."""
    if (refusal := request.refusal) is None:
        return None
    message, field = refusal.message, refusal.field
    if refusal.code == FileRejected.code and field is not None:
        dataset_id = files_of(request.choices)[field]
        message = explained(backend, request.account_id, message, dataset_id)
    return ErrorObject(
        code=refusal.code,
        message=message,
        param=None if field is None else vocabulary.parameter(field),
    )
