"""Base models that can be fine-tuned, the caller's own models, and what could become one."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from domain.catalog.catalog import Catalog
from domain.catalog.model_shape import ModelShape
from domain.core.aggregate import because
from domain.core.identity import CATALOG_ID
from domain.deployments.deployment import DeploymentStatus
from domain.estimating.footprint import FLOAT32, bytes_per_parameter
from domain.jobs.lifecycle import JobStatus
from domain.training.precision import Precision
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller, CallerOf
from gateway.http.errors import NotYetVisible, refusals
from gateway.http.paging import LARGEST_PAGE, Limit, Page
from gateway.http.read_your_writes import caught_up, found
from gateway.schemas import Answer, JobId
from projections import DEPLOYMENTS, JOB_DETAIL, MODELS
from projections.base_models import all_base_models
from projections.deployments import statuses
from projections.job_detail import jobs_with_ids, kept_adapters
from projections.models import model_of, models_of
from projections.projection import Row

OF_ITS_JOB = ("base_model", "dataset_id", "loss_before", "loss_after")
"""What is said of a model, and known of the job that made it."""

router = APIRouter(tags=["models"])


class BaseModelAnswer(Answer):
    """A base model in the model store."""

    name: str
    architecture: str = Field(examples=["LlamaForCausalLM"])
    parameters: int
    context_length: int
    imported_at: datetime
    bytes_per_parameter_bf16: float | None = Field(
        description="Of GPU memory, for the weights; null: an earlier version imported it."
    )
    bytes_per_parameter_nf4: float | None = Field(
        description="In 4 bits, embeddings and head in bf16."
    )
    bytes_per_parameter_fp32: float | None = Field(
        description="Where a GPU type stands for a CPU: the memory fit reckons with float32 then."
    )
    bytes_per_parameter_nf4_fp32: float | None = Field(
        description="In 4 bits, embeddings and head in float32."
    )
    linear_modules: list[str] = Field(
        description="Names of the layers' linear modules, which an adapter may modify."
    )
    eligible: bool = Field(description="Whether the operator offers it for fine-tuning.")
    deployment: DeploymentStatus | None = Field(
        description="Jobs may fine-tune an eligible base whose deployment is active."
    )

    @classmethod
    def of(cls, row: Row, catalog: Catalog, deployed: DeploymentStatus | None) -> BaseModelAnswer:
        """The answer for a row of the projection."""
        shape = None if row["shape"] is None else ModelShape.model_validate(row["shape"])
        return cls(
            **row,
            bytes_per_parameter_bf16=shape and bytes_per_parameter(shape, Precision.BF16),
            bytes_per_parameter_nf4=shape and bytes_per_parameter(shape, Precision.NF4),
            bytes_per_parameter_fp32=shape and bytes_per_parameter(shape, Precision.BF16, FLOAT32),
            bytes_per_parameter_nf4_fp32=shape
            and bytes_per_parameter(shape, Precision.NF4, FLOAT32),
            linear_modules=list(shape.linears) if shape else [],
            eligible=catalog.is_eligible(row["name"]),
            deployment=deployed,
        )


class ModelAnswer(Answer):
    """A model that a job of the caller registered."""

    model: str = Field(examples=["ft:smollm2-135m-instruct:0b0f8f5c3a4e"])
    job_id: JobId
    base_model: str
    dataset_id: UUID
    adapter_ref: str
    registered_at: datetime
    loss_before: float | None = Field(
        description="Held-out loss of the base; null: the job did not get to its evaluation."
    )
    loss_after: float | None = Field(description="Held-out loss of the model.")
    deployment: DeploymentStatus | None = Field(description="null: it was never deployed.")


class KeptAdapter(Answer):
    """What a cancelled or failed job had saved last, which can be promoted to a model."""

    job_id: JobId
    status: JobStatus
    base_model: str
    dataset_id: UUID
    step: int = Field(description="Of the checkpoint.")
    train_loss: float = Field(description="Mean over the label tokens of that step.")
    ended_at: datetime
    expires_at: datetime | None = Field(description="When it is deleted; null: it is kept.")


class Models(Answer):
    """Base models, the caller's own, and what could become one."""

    base_models: list[BaseModelAnswer]
    models: list[ModelAnswer]
    kept: list[KeptAdapter]
    has_more: bool = Field(description="Whether there are more models of the caller's after these.")


@router.get("/models", responses=refusals(404))
def list_models(
    caller: CallerOf,
    backend: BackendOf,
    after: Annotated[
        str | None, Query(description="Only the caller's models that come after this one.")
    ] = None,
    limit: Limit = LARGEST_PAGE,
) -> Models:
    """Base models by name; the caller's own, and what stopped jobs had saved, the newest first."""
    if after is not None:
        own_model(backend, caller, after)
    with backend.pool.connection() as connection:
        deployed = statuses(connection, caller.account_id)
        read = partial(models_of, connection, caller.account_id, after)
        own = Page[Row].of(read, limit, lambda row: row)
        kept = kept_adapters(connection, caller.account_id, backend.clock.now())
    trained = _trained(backend, caller, [row["job_id"] for row in own.data])
    return Models(
        base_models=base_models(backend, caller),
        models=[
            ModelAnswer(
                **row,
                **{name: trained[row["job_id"]][name] for name in OF_ITS_JOB},
                deployment=deployed.get(row["model"]),
            )
            for row in own.data
        ],
        kept=[_kept(row) for row in kept],
        has_more=own.has_more,
    )


def base_models(backend: Backend, caller: Caller) -> list[BaseModelAnswer]:
    """Base models in the model store, by name."""
    catalog = backend.log.load(Catalog, CATALOG_ID)
    with backend.pool.connection() as connection:
        bases = all_base_models(connection)
        deployed = statuses(connection, caller.account_id)
    return [BaseModelAnswer.of(row, catalog, deployed.get(row["name"])) for row in bases]


def _kept(row: Row) -> KeptAdapter:
    shown = {name: row[name] for name in KeptAdapter.model_fields if name in row}
    return KeptAdapter(
        **shown
        | {
            "step": row["checkpoint_step"],
            "train_loss": row["checkpoint_loss"],
            "ended_at": row["cancelled_at"] or row["changed_at"],
        }
    )


def _trained(backend: Backend, caller: Caller, job_ids: list[UUID]) -> dict[UUID, Row]:
    """The jobs that made models; raises NotYetVisible while their projection is far behind."""

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


@router.delete("/models/{model}", status_code=204, responses=refusals(404))
def drop_model(model: str, caller: CallerOf, backend: BackendOf) -> None:
    """Delete a model of the caller and the checkpoints of its job; none of them answers any more.

    The job, its bill and its measurements stay.
    """
    delete_model(backend, caller, model)


def delete_model(backend: Backend, caller: Caller, model: str) -> None:
    """Delete a caller's model; raises NotFound."""
    row = own_model(backend, caller, model)
    with because(caller.cause(backend)):
        backend.deploying.delete_model(caller.account_id, row["job_id"])
    caught_up(backend, MODELS, JOB_DETAIL, DEPLOYMENTS)


def own_model(backend: Backend, caller: Caller, model: str) -> Row:
    """The row of a caller's model; raises NotFound, also for another account's."""
    return found(
        backend,
        MODELS,
        lambda connection: model_of(connection, caller.account_id, model),
        f"no model {model}",
    )
