"""Streaming parser of the multipart form of a /v1 upload."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from domain.core.errors import Invalid
from domain.datasets.columns import chosen_columns
from domain.datasets.dataset import UploadOptions
from gateway.backend import Backend
from gateway.datasets.columns import columns_of
from gateway.datasets.service import own_dataset
from gateway.datasets.uploads import Choices, StoredFile, upload_ref, upload_slot
from gateway.http.access import Caller
from gateway.http.multipart import Form
from gateway.http.openai_vocabulary import FINE_TUNE, dataset_of
from gateway.http.text_validation import storable
from gateway.http.uploads import FORM_BYTES, refuse_declared, store_stream

UNNAMED = "dataset.jsonl"
OPTIONS = ("keep_duplicates", "ignore_tools")
MAX_NAME = 200
MOST_COLUMNS = 20

FORM_SCHEMA: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["purpose", "file"],
                "properties": {
                    "purpose": {"const": FINE_TUNE},
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "Chats or preference pairs in a format of the user guide.",
                    },
                    "keep_duplicates": {
                        "type": "boolean",
                        "description": "EcoLink only: keep repeated lines.",
                    },
                    "ignore_tools": {
                        "type": "boolean",
                        "description": "EcoLink only: remove tool definitions from the examples.",
                    },
                    "parent": {
                        "type": "string",
                        "description": "EcoLink only: ID of the file of which this one is a new "
                        "version.",
                    },
                    "columns": {
                        "type": "object",
                        "additionalProperties": {"type": "string"},
                        "description": "EcoLink only: column or key of each role, such as `user` "
                        "and `assistant`. Send it as JSON, or as `columns[user]`.",
                    },
                },
            }
        }
    },
}
"""Request body in the OpenAPI document. No Pydantic model parses the body: it is streamed."""


@dataclass
class Upload:
    """The part of a form that has been received."""

    ref: str
    file: StoredFile | None = None
    filename: str = UNNAMED
    purpose: str | None = None
    options: dict[str, bool] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    columns_text: str | None = None
    parent: UUID | None = None

    def choices(self) -> Choices:
        """Return the chosen options and columns. Raise Invalid if the columns are unusable."""
        columns = chosen_columns(self.columns) if self.columns else columns_of(self.columns_text)
        keep, ignore = (self.options.get(name, False) for name in OPTIONS)
        return Choices.of(UploadOptions(keep, ignore, parent=self.parent), columns)

    def require_purpose(self) -> None:
        """Raise Invalid if the purpose is not fine-tuning."""
        if self.purpose != FINE_TUNE:
            raise Invalid(f"Unknown purpose {self.purpose!r}. Send {FINE_TUNE!r}.", field="purpose")


async def receive_upload(
    request: Request, backend: Backend, caller: Caller
) -> tuple[str, StoredFile, Choices]:
    """Store the file of a form. Return its name, the stored file and the choices.

    If an error occurs, delete the file. Raise Invalid if the form is malformed, TooLarge or
    NoDiskSpace if the file cannot be stored, and RateLimited or QuotaExceeded at a limit of the
    account.
    """
    upload = Upload(upload_ref(caller))
    try:
        async with upload_slot(backend, caller) as most_bytes:
            refuse_declared(request, most_bytes, FORM_BYTES)
            await _receive(request, backend, upload, most_bytes)
        upload.require_purpose()
        if upload.file is None:
            raise Invalid("The form has no file. Send one in the field `file`.", field="file")
        choices = upload.choices()
        if upload.parent is not None:
            await run_in_threadpool(own_dataset, backend, caller, upload.parent)
    except BaseException:
        if upload.file is not None:
            await run_in_threadpool(backend.artifacts.delete, upload.ref)
        raise
    return upload.filename, upload.file, choices


async def _receive(request: Request, backend: Backend, upload: Upload, most_bytes: int) -> None:
    form = Form(request.headers.get("content-type", ""), request.stream())
    async for part in form.parts():
        if part.name == "file" and upload.file is None:
            if upload.purpose is not None:
                upload.require_purpose()
            size, sha256 = await store_stream(
                part.chunks, backend.artifacts, upload.ref, most_bytes
            )
            upload.file = StoredFile(upload.ref, sha256, size)
            upload.filename = storable(part.filename or "")[-MAX_NAME:] or UNNAMED
        elif part.name == "purpose":
            upload.purpose = await part.text()
        elif part.name in OPTIONS:
            upload.options[part.name] = _boolean(part.name, await part.text())
        elif part.name == "parent":
            upload.parent = dataset_of(await part.text())
        elif part.name == "columns":
            upload.columns_text = await part.text()
        elif part.name.startswith("columns[") and len(upload.columns) < MOST_COLUMNS:
            upload.columns[part.name[8:].removesuffix("]")] = await part.text()
        else:
            name, _, _ = part.name.partition("[")  # clients send objects as name[key]
            if name == "expires_after":
                raise Invalid("Files do not expire. Remove `expires_after`.", field=name)
            raise Invalid(
                f"Unknown or repeated field {name!r}. Send `file` and `purpose` once each. "
                "`keep_duplicates`, `ignore_tools`, `columns` and `parent` are optional.",
                field=name,
            )


def _boolean(name: str, value: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if value.lower() not in known:
        raise Invalid(f"Invalid value {value!r}. Send true or false.", field=name)
    return known[value.lower()]
