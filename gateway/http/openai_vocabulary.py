"""Mapping of statuses, hyperparameters, fields and IDs to OpenAI's names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from uuid import UUID

from annotated_types import Le

from domain.core.errors import Invalid, NotFound
from domain.datasets.dataset import DatasetStatus
from domain.jobs.lifecycle import JobStatus
from domain.training.hyperparameters import DPO, DPO_DEFAULTS, SUPERVISED, Hyperparameters
from gateway.schemas import JOB_PREFIX
from projections.job_detail import WAITING_FOR_GPU, WAITING_FOR_LEASE, WAITING_TO_RETRY

FILE_STATUSES: Mapping[str, str] = MappingProxyType(
    {
        DatasetStatus.VALIDATING: "uploaded",
        DatasetStatus.READY_FOR_TRAINING: "processed",
        DatasetStatus.REJECTED: "error",
    }
)

JOB_STATUSES: Mapping[str, str] = MappingProxyType(
    {
        JobStatus.TRAINING: "running",
        JobStatus.EVALUATING: "running",
        JobStatus.TRAINED_PENDING_REGISTER: "running",
        JobStatus.REGISTERED: "succeeded",
        JobStatus.PAUSED: "paused",
        JobStatus.FAILED: "failed",
        JobStatus.CANCELLED: "cancelled",
    }
)
"""OpenAI's status for each job status.

A job without a GPU is `queued`. Job requests have their own statuses.
"""

QUEUED_PHASES = frozenset({WAITING_TO_RETRY, WAITING_FOR_GPU, WAITING_FOR_LEASE})

FIELDS: Mapping[str, str] = MappingProxyType(
    {"dataset": "training_file", "validation_dataset": "validation_file", "base_model": "model"}
)
"""OpenAI's names of the fields of a launch."""

FILE_PREFIX, RESULT_PREFIX = "file-", "file-metrics-"
FINE_TUNE, RESULTS = "fine-tune", "fine-tune-results"


def _most(name: str) -> Any:
    bounds = Hyperparameters.model_fields[name].metadata
    return next(bound.le for bound in bounds if isinstance(bound, Le))


MOST_IN_A_MICRO_BATCH = Hyperparameters().micro_batch_size
DEFAULT_LEARNING_RATE = Hyperparameters().learning_rate
MOST_MICRO_BATCHES: int = _most("gradient_accumulation")
HIGHEST_LEARNING_RATE: float = _most("learning_rate")
SIGNIFICANT_DIGITS = 12


def job_status(row: Mapping[str, Any]) -> str:
    """Return OpenAI's status of a job's row."""
    known = JOB_STATUSES[row["status"]]
    return "queued" if known == "running" and row["phase"] in QUEUED_PHASES else known


def batch(batch_size: int, gpu_count: int) -> dict[str, int]:
    """Return the micro batch size and gradient accumulation for a batch size.

    Raise Invalid if the batch size is too large, or not a multiple of the number of GPUs.
    """
    each, left = divmod(batch_size, gpu_count)
    if left or not each:
        raise Invalid(
            f"The batch size {batch_size:,} cannot be split evenly among {gpu_count} GPUs. "
            f"Choose a multiple of {gpu_count}.",
            field="batch_size",
        )
    micro = next(size for size in range(MOST_IN_A_MICRO_BATCH, 0, -1) if each % size == 0)
    if each > micro * MOST_MICRO_BATCHES:
        multiple = MOST_IN_A_MICRO_BATCH * gpu_count
        raise Invalid(
            f"The batch size {batch_size:,} is too large. Choose a multiple of {multiple} of at "
            f"most {multiple * MOST_MICRO_BATCHES:,}.",
            field="batch_size",
        )
    return {"micro_batch_size": micro, "gradient_accumulation": each // micro}


def batch_size(hyperparameters: Mapping[str, Any], gpu_count: int) -> int:
    """Return the number of examples per optimizer step across all GPUs."""
    micro, often = hyperparameters["micro_batch_size"], hyperparameters["gradient_accumulation"]
    return micro * often * gpu_count


def default_learning_rate(method: str) -> float:
    """Return the default learning rate of a method."""
    return DPO_DEFAULTS["learning_rate"] if method == DPO else DEFAULT_LEARNING_RATE


def learning_rate(multiplier: float, method: str) -> float:
    """Return the peak rate for OpenAI's multiplier of a method's default, or raise Invalid."""
    default = default_learning_rate(method)
    rate = default * multiplier
    if rate > HIGHEST_LEARNING_RATE:
        most = HIGHEST_LEARNING_RATE / default
        raise Invalid(
            f"The multiplier {multiplier:,g} is too large. Choose at most {most:,g}.",
            field="learning_rate_multiplier",
        )
    return rate


def learning_rate_multiplier(hyperparameters: Mapping[str, Any]) -> float:
    """Return the multiplier for a peak learning rate, without floating-point noise."""
    default = default_learning_rate(hyperparameters.get("method", SUPERVISED))
    multiplier = hyperparameters["learning_rate"] / default
    return float(f"{multiplier:.{SIGNIFICANT_DIGITS}g}")


def parameter(field: str) -> str:
    """Return OpenAI's name for a field. In EcoLink, hyperparameters are separate fields."""
    bare = field.removeprefix("hyperparameters.")
    return FIELDS.get(bare, bare)


def file_name(dataset_id: UUID) -> str:
    return f"{FILE_PREFIX}{dataset_id.hex}"


def dataset_of(file_id: str, field: str | None = None) -> UUID:
    """Return the dataset ID in a file ID. Raise NotFound if it is malformed."""
    return _uuid_of(FILE_PREFIX, file_id, f"Unknown file {file_id}. See GET /v1/files.", field)


def result_name(job_id: UUID) -> str:
    return f"{RESULT_PREFIX}{job_id.hex}"


def job_of_result(file_id: str) -> UUID:
    """Return the job ID in the ID of a metrics file. Raise NotFound if it is malformed."""
    return _uuid_of(RESULT_PREFIX, file_id, f"Unknown file {file_id}. See GET /v1/files.")


def job_of(name: str) -> UUID:
    """Return the UUID in a public job ID. Raise NotFound if it is malformed."""
    return _uuid_of(JOB_PREFIX, name, f"Unknown job {name}. See GET /v1/fine_tuning/jobs.")


def organization(account_id: UUID) -> str:
    return f"org-{account_id.hex}"


def _uuid_of(prefix: str, name: str, missing: str, field: str | None = None) -> UUID:
    try:
        found = UUID(name.removeprefix(prefix))
    except ValueError:
        raise NotFound(missing, field=field) from None
    if name != f"{prefix}{found.hex}":
        raise NotFound(missing, field=field)
    return found
