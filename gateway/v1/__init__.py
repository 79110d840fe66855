"""The API that the `openai` package speaks, under /v1, one module for each resource."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from gateway.text_validation import only_texts
from gateway.v1 import chat, files, job_events, jobs, models
from gateway.v1 import errors as errors
from gateway.v1.requested_jobs import settle_for_ever as settle_for_ever

PREFIX = "/v1"
UPLOAD_PATH = f"{PREFIX}{files.FILES_PATH}"

router = APIRouter(prefix=PREFIX, dependencies=[Depends(only_texts)])
for resource in (files, jobs, job_events, models, chat):
    router.include_router(resource.router, tags=["openai"])
