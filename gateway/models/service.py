"""Base models, fine-tuned models and kept adapters of an account."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum, auto
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from domain.catalog.catalog import Catalog
from domain.catalog.model_shape import ModelShape
from domain.core.aggregate import because
from domain.core.errors import WrongState
from domain.core.identity import CATALOG_ID
from domain.deployments.deployment import DeploymentStatus
from domain.estimating.footprint import FLOAT32, bytes_per_parameter
from domain.training.precision import Precision
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.errors import Forbidden, NotYetVisible
from gateway.http.paging import LARGEST_PAGE
from gateway.http.read_your_writes import caught_up, found
from gateway.models.schemas import BaseModelResponse, KeptAdapter, ModelResponse, Models
from gateway.schemas import Page
from infrastructure.bus.exchange import read
from projections import DEPLOYMENTS, JOB_DETAIL, MODELS
from projections.base_models import all_base_models
from projections.deployments import deployed_checkpoints, statuses
from projections.job_detail import jobs_with_ids, kept_adapters, unfinished_from
from projections.models import model_of, models_of
from projections.projection import Row

JOB_FIELDS = ("base_model", "dataset_id", "loss_before", "loss_after")
"""Fields of a ModelResponse that come from the job."""


class NameKind(Enum):
    """Kind of a model name."""

    BASE = auto()
    MODEL = auto()
    CHECKPOINT = auto()


class ModelName(NamedTuple):
    """A model name that requests can use."""

    name: str
    created_at: datetime
    kind: NameKind


def list_models(
    backend: Backend, caller: Caller, after: str | None = None, limit: int = LARGEST_PAGE
) -> Models:
    """Return base models by name, and the account's own models and kept adapters, newest first."""
    if after is not None:
        own_model(backend, caller, after)
    with backend.pool.connection() as connection:
        deployed = statuses(connection, caller.account_id)
        read = partial(models_of, connection, caller.account_id, after)
        own = Page[Row].of(read, limit, lambda row: row)
        kept = kept_adapters(connection, caller.account_id, backend.clock.now())
    jobs = _jobs(backend, caller, [row["job_id"] for row in own.data])
    return Models(
        base_models=base_models(backend, caller),
        models=[
            ModelResponse(
                **row,
                **{name: jobs[row["job_id"]][name] for name in JOB_FIELDS},
                deployment=deployed.get(row["model"]),
            )
            for row in own.data
        ],
        kept=[_kept(row) for row in kept],
        has_more=own.has_more,
    )


def base_models(backend: Backend, caller: Caller) -> list[BaseModelResponse]:
    """Return the base models in the model store, by name."""
    catalog = backend.log.load(Catalog, CATALOG_ID)
    with backend.pool.connection() as connection:
        bases = all_base_models(connection)
        deployed = statuses(connection, caller.account_id)
    return [_base_model(row, catalog, deployed.get(row["name"])) for row in bases]


def own_model(backend: Backend, caller: Caller, model: str) -> Row:
    """Return the row of the account's model. Raise NotFound if there is no such model."""
    return found(
        backend,
        MODELS,
        lambda connection: model_of(connection, caller.account_id, model),
        f"Unknown model {model!r}. See `ecolink models list`.",
    )


def model_names(backend: Backend, caller: Caller) -> list[ModelName]:
    """Return all names that the account can use: base models, its models and its checkpoints."""
    with backend.pool.connection() as connection:
        bases = all_base_models(connection)
        own = models_of(connection, caller.account_id)
        checkpoints = deployed_checkpoints(connection, caller.account_id)
    return [
        *(ModelName(row["name"], row["imported_at"], NameKind.BASE) for row in bases),
        *(ModelName(row["model"], row["registered_at"], NameKind.MODEL) for row in own),
        *(ModelName(row["model"], row["requested_at"], NameKind.CHECKPOINT) for row in checkpoints),
    ]


def find_model_name(backend: Backend, caller: Caller, model: str) -> ModelName | None:
    """Return the name if the account can use it, or None."""
    return next((each for each in model_names(backend, caller) if each.name == model), None)


def delete_model_named(backend: Backend, caller: Caller, model: str) -> None:
    """Delete a fine-tuned model by its name. Checkpoints and base models are refused."""
    named = find_model_name(backend, caller, model)
    if named is not None and named.kind is NameKind.BASE:
        raise Forbidden(f"{model} is a base model. Only an operator can delete it.", field="model")
    if named is not None and named.kind is NameKind.CHECKPOINT:
        raise WrongState(
            f"{model} is a checkpoint. Undeploy it with POST /api/models/{model}/undeploy.",
            field="model",
        )
    delete_model(backend, caller, model)


def delete_model(backend: Backend, caller: Caller, model: str) -> None:
    """Delete a model that no unfinished job continues, and the checkpoints of its job."""
    row = own_model(backend, caller, model)
    with backend.pool.connection() as connection:
        continued_by = unfinished_from(connection, caller.account_id, row["job_id"])
    with because(caller.cause(backend)):
        backend.deploying.delete_model(caller.account_id, row["job_id"], continued_by)
    caught_up(backend, MODELS, JOB_DETAIL, DEPLOYMENTS)


def _base_model(
    row: Row, catalog: Catalog, deployment: DeploymentStatus | None
) -> BaseModelResponse:
    shape = None if row["shape"] is None else read(ModelShape, row["shape"])
    return BaseModelResponse(
        **row,
        bytes_per_parameter_bf16=shape and bytes_per_parameter(shape, Precision.BF16),
        bytes_per_parameter_nf4=shape and bytes_per_parameter(shape, Precision.NF4),
        bytes_per_parameter_fp32=shape and bytes_per_parameter(shape, Precision.BF16, FLOAT32),
        bytes_per_parameter_nf4_fp32=shape and bytes_per_parameter(shape, Precision.NF4, FLOAT32),
        linear_modules=list(shape.linears) if shape else [],
        eligible=catalog.is_eligible(row["name"]),
        deployment=deployment,
    )


def _kept(row: Mapping[str, Any]) -> KeptAdapter:
    shown = {name: row[name] for name in KeptAdapter.model_fields if name in row}
    return KeptAdapter(
        **shown
        | {
            "step": row["checkpoint_step"],
            "train_loss": row["checkpoint_loss"],
            "ended_at": row["cancelled_at"] or row["changed_at"],
        }
    )


def _jobs(backend: Backend, caller: Caller, job_ids: list[UUID]) -> dict[UUID, Row]:
    """Return the jobs that trained the models, or raise NotYetVisible if a projection lags."""

    def read() -> dict[UUID, Row]:
        with backend.pool.connection() as connection:
            rows = jobs_with_ids(connection, caller.account_id, job_ids)
        return {row["job_id"]: row for row in rows}

    jobs = read()
    if len(jobs) < len(job_ids) and caught_up(backend, JOB_DETAIL):
        jobs = read()
    if len(jobs) < len(job_ids):
        raise NotYetVisible
    return jobs
