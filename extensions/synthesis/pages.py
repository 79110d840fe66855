"""Pages of syntheses: the form with its price, and one synthesis with its progress and review."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Form, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from domain.core.errors import Invalid
from domain.deployments.deployment import DeploymentStatus
from extensions.synthesis import endpoints, reviewing, service
from extensions.synthesis.domain.request import MOST_DOCUMENT_CHARACTERS, MOST_DOCUMENTS
from extensions.synthesis.domain.synthesis import SynthesisStatus
from extensions.synthesis.domain.use_cases import Synthesizing
from extensions.synthesis.schemas import (
    EndpointForm,
    EndpointKeyForm,
    ExampleMessage,
    SynthesisForm,
)
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller
from gateway.http.permissions import MayDownload, MayEdit, MayManageKeys, MayRead, MayTrain
from gateway.web.rendering import fragment, is_htmx, page
from infrastructure.accounts.profiles import dataset_names
from projections.base_models import all_base_models
from projections.datasets import ready_datasets
from projections.deployments import deployments_of

LISTED, SHOWN_EXAMPLES, LISTED_SEEDS = 20, 10, 100
FORM_FIELDS = 40
SMALL_PARAMETERS = 1_000_000_000
"""Smaller models write better chats without personas, and judge badly."""

DEFAULTS = SynthesisForm(name="x")

STATUSES: dict[SynthesisStatus, tuple[str, str]] = {
    SynthesisStatus.GENERATING: ("generating", "calm is-live"),
    SynthesisStatus.PAUSED: ("paused", "warn"),
    SynthesisStatus.REVIEWING: ("ready to review", "good"),
    SynthesisStatus.READY: ("dataset created", "good"),
    SynthesisStatus.CANCELLED: ("cancelled", ""),
    SynthesisStatus.FAILED: ("failed", "bad"),
}
"""Label and tone of each status."""

router = APIRouter()

After = Annotated[int, Query(ge=0, le=1_000_000)]


@router.get("/datasets/generate")
def show_form(request: Request, caller: MayRead, backend: BackendOf) -> Response:
    """Show the form of a synthesis, and the newest syntheses."""
    with backend.pool.connection() as connection:
        parameters = {row["name"]: row["parameters"] for row in all_base_models(connection)}
        models = [
            (row["model"], parameters.get(row["base_model"], 0) < SMALL_PARAMETERS)
            for row in deployments_of(connection, caller.account_id)
            if row["status"] == DeploymentStatus.ACTIVE
        ]
        seeds = ready_datasets(connection, caller.account_id, LISTED_SEEDS)
        names = dataset_names(connection, [row["dataset_id"] for row in seeds])
    return page(
        request,
        backend,
        caller,
        "synthesis/form.html",
        models=models,
        endpoints=endpoints.list_endpoints(backend, caller),
        seeds=[(row["dataset_id"], names.get(row["dataset_id"])) for row in seeds],
        listed=service.list_syntheses(backend, caller, None, LISTED).data,
        statuses=STATUSES,
        defaults=DEFAULTS,
        key=str(uuid4()),
    )


@router.post("/datasets/generate/quote")
async def show_quote(request: Request, caller: MayTrain, backend: BackendOf) -> Response:
    """Show the price of the form's synthesis."""
    form, _ = await _entered(request)
    quote = await run_in_threadpool(service.quote, backend, caller, form)
    return await run_in_threadpool(fragment, "synthesis/quote.html", quote=quote)


@router.post("/datasets/generate")
async def approve(request: Request, caller: MayTrain, backend: BackendOf) -> Response:
    """Approve the form's synthesis, and open its page."""
    form, key = await _entered(request)
    made = await run_in_threadpool(service.approve, backend, caller, form, key)
    return Response(headers={"hx-redirect": f"/syntheses/{made.id}"})


@router.post("/datasets/generate/endpoints")
def add_endpoint(
    caller: MayManageKeys,
    backend: BackendOf,
    name: Annotated[str, Form(max_length=200)] = "",
    url: Annotated[str, Form(max_length=2000)] = "",
    key: Annotated[str, Form(max_length=1000)] = "",
) -> Response:
    """Store an external endpoint, and show the form again."""
    if not name.strip():
        raise Invalid("Enter a name for the endpoint.", field="name")
    if not url.strip():
        raise Invalid("Enter a URL that begins with https://.", field="url")
    endpoints.create(backend, caller, EndpointForm(name=name, url=url, key=key))
    return Response(headers={"hx-redirect": "/datasets/generate"})


@router.post("/syntheses/{synthesis_id}/endpoint-key")
def replace_endpoint_key(
    synthesis_id: UUID,
    caller: MayManageKeys,
    backend: BackendOf,
    key: Annotated[str, Form(max_length=1000)] = "",
) -> Response:
    """Replace the key of the endpoint of a synthesis, and show the synthesis again."""
    if not key.strip():
        raise Invalid("Enter the key of the endpoint.", field="key")
    endpoint_id = service.show(backend, caller, synthesis_id).endpoint_id
    if endpoint_id is None:
        raise Invalid("The synthesis uses a deployed model, which has no key.", field="key")
    endpoints.replace_key(backend, caller, endpoint_id, EndpointKeyForm(key=key))
    return Response(headers={"hx-redirect": f"/syntheses/{synthesis_id}"})


@router.get("/syntheses/{synthesis_id}")
def show_one(synthesis_id: UUID, request: Request, caller: MayRead, backend: BackendOf) -> Response:
    """Show a synthesis: its progress, its cost and its review."""
    shown = _shown(backend, caller, synthesis_id)
    if is_htmx(request):
        return fragment("synthesis/state.html", **shown)
    return page(request, backend, caller, "synthesis/page.html", **shown)


@router.get("/syntheses/{synthesis_id}/examples")
def show_examples(
    synthesis_id: UUID, caller: MayDownload, backend: BackendOf, after: After = 0
) -> Response:
    """Show some generated examples, which can be edited and removed."""
    return fragment("synthesis/examples.html", **_examples(backend, caller, synthesis_id, after))


@router.post("/syntheses/{synthesis_id}/examples/{number}")
async def edit_example(
    synthesis_id: UUID, number: int, request: Request, caller: MayEdit, backend: BackendOf
) -> Response:
    """Replace the texts of an example, and show it."""
    form = await request.form(max_files=0, max_fields=FORM_FIELDS * 4)
    roles, contents = form.getlist("role"), form.getlist("content")
    if len(roles) != len(contents):
        raise Invalid("The form is incomplete. Reload the page.", field="messages")
    try:
        messages = [
            ExampleMessage.model_validate({"role": role, "content": str(content).strip()})
            for role, content in zip(roles, contents, strict=True)
        ]
    except ValidationError as error:
        raise Invalid("A message is empty or too long. Enter a text.", field="messages") from error
    shown = await run_in_threadpool(reviewing.edit, backend, caller, synthesis_id, number, messages)
    return await run_in_threadpool(
        fragment, "synthesis/example.html", example=shown, id=synthesis_id, reviewing=True
    )


@router.post("/syntheses/{synthesis_id}/examples/{number}/remove")
def remove_example(
    synthesis_id: UUID, number: int, caller: MayEdit, backend: BackendOf
) -> Response:
    """Leave an example out, and show it so."""
    shown = reviewing.remove(backend, caller, synthesis_id, number, removed=True)
    return fragment("synthesis/example.html", example=shown, id=synthesis_id, reviewing=True)


@router.post("/syntheses/{synthesis_id}/examples/{number}/restore")
def restore_example(
    synthesis_id: UUID, number: int, caller: MayEdit, backend: BackendOf
) -> Response:
    """Restore an example, and show it."""
    shown = reviewing.remove(backend, caller, synthesis_id, number, removed=False)
    return fragment("synthesis/example.html", example=shown, id=synthesis_id, reviewing=True)


@router.post("/syntheses/{synthesis_id}/pause")
def pause(synthesis_id: UUID, caller: MayTrain, backend: BackendOf) -> Response:
    """Pause the generation."""
    service.give(backend, caller, synthesis_id, Synthesizing(backend.log).pause)
    return _reload(synthesis_id)


@router.post("/syntheses/{synthesis_id}/resume")
def resume(
    synthesis_id: UUID,
    caller: MayTrain,
    backend: BackendOf,
    max_cost: Annotated[str, Form(max_length=20)] = "",
) -> Response:
    """Continue a paused generation."""
    service.resume(backend, caller, synthesis_id, max_cost.strip() or None)
    return _reload(synthesis_id)


@router.post("/syntheses/{synthesis_id}/stop")
def stop(synthesis_id: UUID, caller: MayTrain, backend: BackendOf) -> Response:
    """End the generation early."""
    service.give(backend, caller, synthesis_id, Synthesizing(backend.log).stop)
    return _reload(synthesis_id)


@router.post("/syntheses/{synthesis_id}/cancel")
def cancel(synthesis_id: UUID, caller: MayTrain, backend: BackendOf) -> Response:
    """End a synthesis without a dataset."""
    service.give(backend, caller, synthesis_id, Synthesizing(backend.log).cancel)
    return _reload(synthesis_id)


@router.post("/syntheses/{synthesis_id}/finish")
def finish(synthesis_id: UUID, caller: MayTrain, backend: BackendOf) -> Response:
    """Create the dataset, and open its page."""
    made = service.finish(backend, caller, synthesis_id, None)
    return Response(headers={"hx-redirect": f"/datasets/{made.id}"})


def _reload(synthesis_id: UUID) -> Response:
    return Response(headers={"hx-redirect": f"/syntheses/{synthesis_id}"})


def _shown(backend: Backend, caller: Caller, synthesis_id: UUID) -> dict[str, Any]:
    synthesis = service.show(backend, caller, synthesis_id)
    lost = {each.id for each in endpoints.list_endpoints(backend, caller) if each.key_lost}
    return {
        "synthesis": synthesis,
        "key_lost": synthesis.endpoint_id in lost,
        "statuses": STATUSES,
        "moving": synthesis.status is SynthesisStatus.GENERATING,
        "has_examples": synthesis.status in (SynthesisStatus.REVIEWING, SynthesisStatus.READY),
    }


def _examples(backend: Backend, caller: Caller, synthesis_id: UUID, after: int) -> dict[str, Any]:
    synthesis = service.show(backend, caller, synthesis_id)
    found = reviewing.examples(backend, caller, synthesis_id, after, SHOWN_EXAMPLES)
    return {
        "examples": found.data,
        "has_more": found.has_more,
        "after": after,
        "step": SHOWN_EXAMPLES,
        "id": synthesis_id,
        "reviewing": synthesis.status is SynthesisStatus.REVIEWING,
    }


async def _entered(request: Request) -> tuple[SynthesisForm, str]:
    form = await request.form(max_files=MOST_DOCUMENTS, max_fields=FORM_FIELDS)
    given = {name: value.strip() for name, value in form.items() if isinstance(value, str)}
    documents = [
        {"name": file.filename or "document", "text": await _text_of(file)}
        for file in form.getlist("documents")
        if isinstance(file, UploadFile) and file.filename
    ]
    fields: dict[str, Any] = {
        name: given[name]
        for name in ("name", "instructions", "system", "seed_dataset", "endpoint_model", "max_cost")
        if given.get(name)
    }
    source, _, chosen = given.get("generator", "").partition(":")
    if chosen:
        fields["endpoint" if source == "endpoint" else "model"] = chosen
    for name in ("examples", "turns", "least_score", "answer_tokens", "attempts", "seed"):
        if given.get(name):
            fields[name] = _whole(given[name], name)
    for name in ("temperature", "top_p", "similarity"):
        if given.get(name):
            fields[name] = _number(given[name], name)
    fields["topics"] = [
        line.strip() for line in given.get("topics", "").splitlines() if line.strip()
    ]
    fields["documents"] = documents
    fields |= {name: name in given for name in ("judge", "personas")}
    if not fields.get("name"):
        raise Invalid("Enter a name for the dataset.", field="name")
    try:
        return SynthesisForm.model_validate(fields), given.get("key") or str(uuid4())
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise Invalid(f"{place}: {problem['msg']}.", field=str(problem["loc"][0])) from error


async def _text_of(file: UploadFile) -> str:
    """Return the text of a document. Raise Invalid if it is not UTF-8, empty or too long."""
    content = await file.read(4 * MOST_DOCUMENT_CHARACTERS + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(
            f"{file.filename} is not a text in UTF-8. Upload plain text or Markdown.",
            field="documents",
        ) from error
    if not text.strip():
        raise Invalid(f"{file.filename} is empty.", field="documents")
    if len(text) > MOST_DOCUMENT_CHARACTERS:
        raise Invalid(
            f"{file.filename} has more than {MOST_DOCUMENT_CHARACTERS:,} characters. Shorten it.",
            field="documents",
        )
    return text


def _number(text: str, field: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is not a number. Enter one such as 0.7.", field=field) from error


def _whole(text: str, field: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise Invalid(f"{text!r} is not a whole number.", field=field)
    return int(text)
