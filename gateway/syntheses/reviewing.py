"""The review of generated examples. Edits are an overlay in one stored file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import islice
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from domain.core.aggregate import because
from domain.core.errors import Invalid, NotFound, WrongState
from domain.synthesis.synthesis import Review, StoredFile, Synthesis, SynthesisStatus
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.paging import Page
from gateway.http.read_your_writes import caught_up
from gateway.syntheses.schemas import ExampleAnswer, ExampleMessage
from infrastructure.artifacts import Artifacts
from infrastructure.exchange import read
from infrastructure.ndjson import lines_of
from projections import SYNTHESES


class Overlay(BaseModel):
    """Edited messages and removed examples, by their numbers from 1."""

    model_config = ConfigDict(extra="forbid")

    edited: dict[int, list[ExampleMessage]] = {}
    removed: list[int] = []


def examples(
    backend: Backend, caller: Caller, synthesis_id: UUID, after: int, limit: int
) -> Page[ExampleAnswer]:
    """Return generated examples after a number, as edited.

    Raise NotFound, and WrongState until the generation has ended.
    """
    synthesis = _generated(backend, caller, synthesis_id)
    assert synthesis.examples is not None
    assert synthesis.provenance is not None
    overlay = _overlay(backend.artifacts, synthesis)
    lines = lines_of(backend.artifacts.stream(synthesis.examples.ref))
    origins = islice(lines_of(backend.artifacts.stream(synthesis.provenance.ref)), 1, None)
    numbered = enumerate(zip(lines, origins, strict=True), 1)
    page = list(islice((each for each in numbered if each[0] > after), limit + 1))
    return Page(
        data=[_shown(number, line, origin, overlay) for number, (line, origin) in page[:limit]],
        has_more=len(page) > limit,
    )


def _shown(number: int, line: bytes, origin: bytes, overlay: Overlay) -> ExampleAnswer:
    messages = overlay.edited.get(number)
    if messages is None:
        messages = [ExampleMessage(**each) for each in json.loads(line)["messages"]]
    return ExampleAnswer(
        number=number,
        messages=messages,
        edited=number in overlay.edited,
        removed=number in overlay.removed,
        origin=json.loads(origin),
    )


def edit(
    backend: Backend,
    caller: Caller,
    synthesis_id: UUID,
    number: int,
    messages: list[ExampleMessage],
) -> ExampleAnswer:
    """Replace the messages of an example. Raise NotFound, Invalid or WrongState."""
    _require_chat(messages)

    def change(overlay: Overlay) -> Overlay:
        return overlay.model_copy(update={"edited": overlay.edited | {number: messages}})

    return _change(backend, caller, synthesis_id, number, change)


def remove(
    backend: Backend, caller: Caller, synthesis_id: UUID, number: int, *, removed: bool
) -> ExampleAnswer:
    """Remove an example, or restore it. Raise NotFound or WrongState."""

    def change(overlay: Overlay) -> Overlay:
        left = {each for each in overlay.removed if each != number}
        chosen = left | {number} if removed else left
        return overlay.model_copy(update={"removed": sorted(chosen)})

    return _change(backend, caller, synthesis_id, number, change)


def provenance_of(backend: Backend, caller: Caller, synthesis_id: UUID) -> StoredFile:
    """Return the file with the origin of each example. Raise NotFound or WrongState."""
    provenance = _generated(backend, caller, synthesis_id).provenance
    assert provenance is not None
    return provenance


def _change(
    backend: Backend,
    caller: Caller,
    synthesis_id: UUID,
    number: int,
    change: Callable[[Overlay], Overlay],
) -> ExampleAnswer:
    synthesis = _generated(backend, caller, synthesis_id)
    if synthesis.status is not SynthesisStatus.REVIEWING:
        raise WrongState(f"The synthesis is {synthesis.status}. Its examples cannot change.")
    if not 1 <= number <= synthesis.counts.accepted:
        raise NotFound(f"The synthesis has {synthesis.counts.accepted} examples, and no {number}.")
    overlay = change(_overlay(backend.artifacts, synthesis))
    content = overlay.model_dump_json().encode()
    sha256 = hashlib.sha256(content).hexdigest()
    ref = f"uploads/{caller.account_id}/{synthesis_id}.{sha256}.review.json"
    backend.artifacts.put(ref, content)
    review = Review(
        ref=ref, sha256=sha256, edited=len(overlay.edited), removed=len(overlay.removed)
    )
    with because(caller.cause(backend)):
        backend.synthesizing.review(caller.account_id, synthesis_id, synthesis.review, review)
    caught_up(backend, SYNTHESES)
    (shown,) = examples(backend, caller, synthesis_id, number - 1, 1).data
    return shown


def reviewed_lines(artifacts: Artifacts, synthesis: Synthesis) -> Iterator[bytes]:
    """Yield the lines of the dataset: the examples as edited, without the removed ones."""
    assert synthesis.examples is not None
    overlay = _overlay(artifacts, synthesis)
    for number, line in enumerate(lines_of(artifacts.stream(synthesis.examples.ref)), 1):
        if number in overlay.removed:
            continue
        edited = overlay.edited.get(number)
        if edited is None:
            yield line + b"\n"
        else:
            messages = [each.model_dump() for each in edited]
            yield json.dumps({"messages": messages}, ensure_ascii=False).encode() + b"\n"


def _generated(backend: Backend, caller: Caller, synthesis_id: UUID) -> Synthesis:
    synthesis = backend.synthesizing.owned(caller.account_id, synthesis_id)
    if synthesis.examples is None:
        raise WrongState(
            f"The synthesis is {synthesis.status}. Its examples are shown when it is reviewing."
        )
    return synthesis


def _overlay(artifacts: Artifacts, synthesis: Synthesis) -> Overlay:
    if synthesis.review is None:
        return Overlay()
    return read(Overlay, artifacts.get(synthesis.review.ref))


def _require_chat(messages: list[ExampleMessage]) -> None:
    """Raise Invalid unless users and assistants take turns, after at most one system message."""
    roles = [each.role for each in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    expected = ["user", "assistant"] * (len(turns) // 2)
    if not turns or turns != expected:
        raise Invalid(
            f"The roles are {', '.join(roles)}. Let user and assistant take turns, beginning with "
            "the user and ending with the assistant.",
            field="messages",
        )
