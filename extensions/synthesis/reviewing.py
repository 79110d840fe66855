"""The review of generated examples. Edits are rows beside the stored examples."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from domain.core.aggregate import because
from domain.core.errors import DomainError, Invalid, NotFound, WrongState
from domain.core.identity import created_id
from domain.datasets.dataset import Dataset
from extensions.synthesis.domain.synthesis import StoredFile, Synthesis, SynthesisStatus
from extensions.synthesis.domain.use_cases import Synthesizing, Upload
from extensions.synthesis.edits import (
    Edit,
    EditCounts,
    edit_counts,
    edit_sizes,
    edits_between,
    locked_edits,
    set_messages,
    set_removed,
)
from extensions.synthesis.schemas import ExampleMessage, ExampleResponse
from gateway.backend import Backend
from gateway.datasets.uploads import named_row, require_room_for, upload_ref
from gateway.http.access import Caller
from gateway.schemas import Page
from infrastructure.artifacts.store import Artifacts
from infrastructure.http.ndjson import line_starts, lines_of
from infrastructure.postgres.store import Connection

PAGE_BYTES = 4 * 1024**2
"""Most bytes of a page of examples, with their origins and edits, unless it is one example."""

EDIT_BYTES = 64 * 1024
"""Most bytes of the texts of an edited example."""

EDITS_AT_ONCE = 100
"""Number of examples whose edits are read at once."""

KEPT_STARTS = 100
"""Files of which the process keeps the offsets of the lines, at most 80 kB for each."""


def examples(
    backend: Backend, caller: Caller, synthesis_id: UUID, after: int, limit: int
) -> Page[ExampleResponse]:
    """Return generated examples after a number, as edited: at least one, up to `PAGE_BYTES`.

    Raise NotFound, and WrongState until the generation has ended.
    """
    synthesis = _generated(backend, caller, synthesis_id)
    assert synthesis.examples is not None
    assert synthesis.provenance is not None
    artifacts = backend.artifacts
    lines = Lines.of(artifacts, synthesis.examples.ref)
    origins = Lines.of(artifacts, synthesis.provenance.ref)  # after a header
    with backend.pool.connection() as connection:
        last = min(after + limit, lines.count)
        sizes = edit_sizes(connection, synthesis_id, after, last)
        total = 0
        for number in range(after + 1, last + 1):
            total += lines.size(number) + origins.size(number + 1) + sizes.get(number, 0)
            if total > PAGE_BYTES and number > after + 1:
                last = number - 1
                break
        edits = edits_between(connection, synthesis_id, after, last)
    found = zip(lines.between(after, last), origins.between(after + 1, last + 1), strict=True)
    return Page(
        data=[
            _shown(number, line, origin, edits.get(number))
            for number, (line, origin) in enumerate(found, after + 1)
        ],
        has_more=last < lines.count,
    )


@dataclass(frozen=True)
class Lines:
    """Lines of a stored file, with numbers from 1, read without the rest of the file."""

    artifacts: Artifacts
    ref: str
    starts: array[int]

    @classmethod
    def of(cls, artifacts: Artifacts, ref: str) -> Lines:
        """Return the lines of a file."""
        return cls(artifacts, ref, _starts(artifacts, ref))

    @property
    def count(self) -> int:
        """The number of all lines."""
        return len(self.starts) - 1

    def size(self, number: int) -> int:
        """Return the bytes of a line, with its newline."""
        return self.starts[number] - self.starts[number - 1]

    def between(self, after: int, last: int) -> list[bytes]:
        """Return the lines with numbers above `after`, up to `last`."""
        if after >= last:
            return []
        content = self.artifacts.get_range(self.ref, self.starts[after], self.starts[last])
        return content.split(b"\n")[: last - after]


@lru_cache(KEPT_STARTS)
def _starts(artifacts: Artifacts, ref: str) -> array[int]:
    """Return the offsets of the lines of a file. A file with a ref never changes."""
    return line_starts(artifacts.stream(ref))


def _shown(number: int, line: bytes, origin: bytes, edit: Edit | None) -> ExampleResponse:
    is_edited = edit is not None and bool(edit.messages)
    messages = edit.messages if edit is not None and is_edited else json.loads(line)["messages"]
    return ExampleResponse(
        number=number,
        messages=[ExampleMessage(**each) for each in messages],
        edited=is_edited,
        removed=edit is not None and edit.removed,
        origin=json.loads(origin),
    )


def edit(
    backend: Backend,
    caller: Caller,
    synthesis_id: UUID,
    number: int,
    messages: list[ExampleMessage],
) -> ExampleResponse:
    """Replace the messages of an example. Raise NotFound, WrongState or Invalid."""
    stored = [each.model_dump() for each in messages]

    def change(connection: Connection) -> None:
        _require_chat(messages)
        _require_short(messages)
        set_messages(connection, caller.account_id, synthesis_id, number, stored)

    return _change(backend, caller, synthesis_id, number, change)


def remove(
    backend: Backend, caller: Caller, synthesis_id: UUID, number: int, *, removed: bool
) -> ExampleResponse:
    """Remove an example, or restore it. Raise NotFound or WrongState."""

    def change(connection: Connection) -> None:
        set_removed(connection, caller.account_id, synthesis_id, number, removed)

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
    change: Callable[[Connection], None],
) -> ExampleResponse:
    synthesis = _generated(backend, caller, synthesis_id)
    if not 1 <= number <= synthesis.counts.accepted:
        raise NotFound(f"The synthesis has {synthesis.counts.accepted} examples, and no {number}.")
    with (
        backend.pool.connection() as connection,
        locked_edits(connection, synthesis_id, for_edit=True) as is_locked,
    ):
        if not is_locked:
            raise WrongState("The dataset is being created. Reload the page in some seconds.")
        synthesis = _generated(backend, caller, synthesis_id)
        if synthesis.status is not SynthesisStatus.REVIEWING:
            raise WrongState(f"The synthesis is {synthesis.status}. Its examples cannot change.")
        change(connection)
    (shown,) = examples(backend, caller, synthesis_id, number - 1, 1).data
    return shown


def create_dataset(
    backend: Backend, caller: Caller, synthesis: Synthesis, name: str
) -> Mapping[str, Any]:
    """Create the dataset of the reviewed examples, and return its row.

    Raise WrongState before the review, QuotaExceeded, and Invalid if another edit was saved
    meanwhile.
    """
    upload, counts = stored_dataset(backend, caller, synthesis)
    try:
        require_room_for(backend, caller, upload.total_bytes, "The dataset")
        made = _record(backend, caller, synthesis, upload, counts)
    except DomainError:
        backend.artifacts.delete(upload.ref)
        raise
    assert made.dataset_id is not None
    dataset = backend.log.load(Dataset, made.dataset_id)
    if dataset.upload_ref != upload.ref:
        backend.artifacts.delete(upload.ref)
    return named_row(backend, caller, dataset, name)


def _record(
    backend: Backend, caller: Caller, synthesis: Synthesis, upload: Upload, counts: EditCounts
) -> Synthesis:
    dataset_id = created_id(caller.account_id, "dataset", f"synthesis:{synthesis.id}")
    with (
        backend.pool.connection() as connection,
        locked_edits(connection, synthesis.id, for_edit=False) as is_locked,
    ):
        if not is_locked or counts != edit_counts(connection, synthesis.id):
            raise Invalid("Another edit was saved at the same time. Try again.")
        with because(caller.cause(backend)):
            return Synthesizing(backend.log).create_dataset(
                caller.account_id, synthesis.id, dataset_id, upload
            )


def stored_dataset(
    backend: Backend, caller: Caller, synthesis: Synthesis
) -> tuple[Upload, EditCounts]:
    """Store the lines of the dataset, and return the file with the edits that it has.

    The lines pass through a temporary file, however many there are.
    """
    ref = upload_ref(caller)
    digest, size = hashlib.sha256(), 0
    with TemporaryDirectory() as folder:
        path = Path(folder) / "examples.jsonl"
        with backend.pool.connection() as connection:
            counts = edit_counts(connection, synthesis.id)
        with path.open("wb") as file:
            for line in _reviewed_lines(backend, synthesis):
                file.write(line)
                digest.update(line)
                size += len(line)
        backend.artifacts.put_file(ref, path)
    return Upload(ref, digest.hexdigest(), size, counts.edited, counts.removed), counts


def _reviewed_lines(backend: Backend, synthesis: Synthesis) -> Iterator[bytes]:
    """Yield the lines of the dataset: the examples as edited, without the removed ones."""
    assert synthesis.examples is not None
    edits: dict[int, Edit] = {}
    for before, line in enumerate(lines_of(backend.artifacts.stream(synthesis.examples.ref))):
        if before % EDITS_AT_ONCE == 0:
            with backend.pool.connection() as connection:  # not held while the store is slow
                edits = edits_between(connection, synthesis.id, before, before + EDITS_AT_ONCE)
        mine = edits.get(before + 1)
        if mine is None or not (mine.removed or mine.messages):
            yield line + b"\n"
        elif not mine.removed:
            yield json.dumps({"messages": mine.messages}, ensure_ascii=False).encode() + b"\n"


def _generated(backend: Backend, caller: Caller, synthesis_id: UUID) -> Synthesis:
    synthesis = Synthesizing(backend.log).owned(caller.account_id, synthesis_id)
    if synthesis.examples is None:
        raise WrongState(
            f"The synthesis is {synthesis.status}. Its examples are shown when it is reviewing."
        )
    return synthesis


def _require_chat(messages: list[ExampleMessage]) -> None:
    """Raise Invalid unless users and assistants take turns, after at most one system message."""
    roles = [each.role for each in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user", "assistant"] * (len(turns) // 2)
    if not turns or turns != expected:
        raise Invalid(
            f"The roles are {', '.join(roles) or 'missing'}. Let user and assistant take turns, "
            "beginning with the user and ending with the assistant.",
            field="messages",
        )


def _require_short(messages: list[ExampleMessage]) -> None:
    size = sum(len(each.content.encode()) for each in messages)
    if size > EDIT_BYTES:
        raise Invalid(
            f"The messages have {size:,} bytes. Shorten them to at most {EDIT_BYTES:,} in total.",
            field="messages",
        )
