"""The sample dataset, with which a new user can start a first job without data of their own.

It has 150 questions with short answers, each with the same greeting and the same farewell. So one
can see in a chat whether the model has learned the style.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from domain.datasets.dataset import UploadOptions
from gateway.backend import Backend
from gateway.datasets.uploads import Choices, StoredFile, record_upload, upload_ref
from gateway.http.access import Caller
from projections.projection import Row

NAME = "Captain's answers (sample)"
FILE = Path(__file__).with_name("sample.jsonl")


def create_sample(backend: Backend, caller: Caller, dataset_id: UUID) -> Row:
    """Create a dataset from the sample, start its validation, and return its row.

    If the ID exists, return the existing dataset. The caller holds an upload slot.
    """
    content = FILE.read_bytes()
    file = StoredFile.of(upload_ref(caller), content)
    backend.artifacts.put(file.ref, content)
    return dict(record_upload(backend, caller, dataset_id, NAME, file, Choices(UploadOptions())))
