"""Routes of syntheses under /api."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Body, Header, Path, Query
from fastapi.responses import Response

from extensions.synthesis import reviewing, service
from extensions.synthesis.domain.use_cases import Synthesizing
from extensions.synthesis.schemas import (
    ExampleEdit,
    ExampleResponse,
    FinishForm,
    ResumeForm,
    SynthesisEstimateResponse,
    SynthesisForm,
    SynthesisResponse,
)
from gateway.backend import BackendOf
from gateway.datasets.schemas import DatasetResponse
from gateway.http.downloads import JSON_LINES, ConditionsOf, download, file_answers
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.paging import After, Limit
from gateway.http.permissions import MayDownload, MayEdit, MayRead, MayTrain
from gateway.schemas import Page

Number = Annotated[int, Path(ge=1, le=1_000_000, description="Number of the example, from 1.")]

router = APIRouter(prefix="/syntheses", tags=["syntheses"], route_class=Operation)


@router.post("/quote", responses=refusals(404, 409))
def quote_synthesis(
    form: SynthesisForm, caller: MayTrain, backend: BackendOf
) -> SynthesisEstimateResponse:
    """Show the cost range of a synthesis without starting it."""
    return service.quote(backend, caller, form)


@router.post("", status_code=201, responses=refusals(402, 404, 409))
def approve_synthesis(
    form: SynthesisForm,
    caller: MayTrain,
    backend: BackendOf,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> SynthesisResponse:
    """Approve a synthesis, which then generates examples.

    If the balance is below the upper bound of the range, or the maximum cost if that is lower,
    approval fails with 402. Repeating a request with the same `Idempotency-Key` returns the
    existing synthesis.
    """
    return service.approve(backend, caller, form, idempotency_key or str(uuid4()))


@router.get("", responses=refusals(404))
def list_syntheses(
    caller: MayRead,
    backend: BackendOf,
    after: Annotated[
        UUID | None, Query(description="Return only syntheses after this one in the list.")
    ] = None,
    limit: Limit = 100,
) -> Page[SynthesisResponse]:
    """List your syntheses, newest first."""
    return service.list_syntheses(backend, caller, after, limit)


@router.get("/{synthesis_id}", responses=refusals(404))
def show_synthesis(synthesis_id: UUID, caller: MayRead, backend: BackendOf) -> SynthesisResponse:
    """Show a synthesis with its progress and its cost so far."""
    return service.show(backend, caller, synthesis_id)


@router.post("/{synthesis_id}/pause", responses=refusals(404, 409))
def pause_synthesis(synthesis_id: UUID, caller: MayTrain, backend: BackendOf) -> SynthesisResponse:
    """Pause the generation. Requests in progress still end, and complete attempts are charged.

    With a judge, an answer is charged when it is judged, after a resume.
    """
    return service.give(backend, caller, synthesis_id, Synthesizing(backend.log).pause)


@router.post("/{synthesis_id}/resume", responses=refusals(402, 404, 409))
def resume_synthesis(
    synthesis_id: UUID,
    caller: MayTrain,
    backend: BackendOf,
    how: Annotated[ResumeForm | None, Body()] = None,
) -> SynthesisResponse:
    """Continue a paused generation. The balance must cover what is left of the range."""
    return service.resume(backend, caller, synthesis_id, (how or ResumeForm()).max_cost)


@router.post("/{synthesis_id}/stop", responses=refusals(404, 409))
def stop_synthesis(synthesis_id: UUID, caller: MayTrain, backend: BackendOf) -> SynthesisResponse:
    """End the generation early, and review the accepted examples."""
    return service.give(backend, caller, synthesis_id, Synthesizing(backend.log).stop)


@router.post("/{synthesis_id}/cancel", responses=refusals(404, 409))
def cancel_synthesis(synthesis_id: UUID, caller: MayTrain, backend: BackendOf) -> SynthesisResponse:
    """End a synthesis without a dataset."""
    return service.give(backend, caller, synthesis_id, Synthesizing(backend.log).cancel)


@router.get("/{synthesis_id}/examples", responses=refusals(404, 409))
def list_examples(
    synthesis_id: UUID,
    caller: MayDownload,
    backend: BackendOf,
    after: Annotated[After, Query(description="Return only examples with a higher number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of examples.")] = 100,
) -> Page[ExampleResponse]:
    """List the generated examples with their origins, as you edited them.

    A page has at least one example, and otherwise at most 4 MiB. If it has fewer examples than the
    limit, see `has_more`.
    """
    return reviewing.examples(backend, caller, synthesis_id, after, limit)


@router.patch("/{synthesis_id}/examples/{number}", responses=refusals(404, 409))
def edit_example(
    synthesis_id: UUID, number: Number, edit: ExampleEdit, caller: MayEdit, backend: BackendOf
) -> ExampleResponse:
    """Replace the messages of an example. Their texts have at most 64 KiB in total."""
    return reviewing.edit(backend, caller, synthesis_id, number, edit.messages)


@router.delete("/{synthesis_id}/examples/{number}", responses=refusals(404, 409))
def remove_example(
    synthesis_id: UUID, number: Number, caller: MayEdit, backend: BackendOf
) -> ExampleResponse:
    """Leave an example out of the dataset. You can restore it."""
    return reviewing.remove(backend, caller, synthesis_id, number, removed=True)


@router.post("/{synthesis_id}/examples/{number}/restore", responses=refusals(404, 409))
def restore_example(
    synthesis_id: UUID, number: Number, caller: MayEdit, backend: BackendOf
) -> ExampleResponse:
    """Restore a removed example."""
    return reviewing.remove(backend, caller, synthesis_id, number, removed=False)


@router.post("/{synthesis_id}/finish", status_code=202, responses=refusals(404, 409))
def finish_synthesis(
    synthesis_id: UUID,
    caller: MayTrain,
    backend: BackendOf,
    how: Annotated[FinishForm | None, Body()] = None,
) -> DatasetResponse:
    """Create the dataset of the reviewed examples, once. EcoLink then validates it."""
    return service.finish(backend, caller, synthesis_id, (how or FinishForm()).name)


@router.get(
    "/{synthesis_id}/provenance",
    response_class=Response,
    responses={**file_answers(JSON_LINES), **refusals(404, 409)},
)
def download_provenance(
    synthesis_id: UUID, wanted: ConditionsOf, caller: MayDownload, backend: BackendOf
) -> Response:
    """Download the origin of each generated example, one per line after the plan."""
    file = reviewing.provenance_of(backend, caller, synthesis_id)
    name = f"{synthesis_id}.provenance.jsonl"
    return download(
        backend.artifacts, file.ref, file.sha256, wanted, name=name, media_type=JSON_LINES
    )
