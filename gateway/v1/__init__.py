"""The API that the `openai` package speaks, under /v1, one module for each resource."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.v1 import chat, files, job_events, jobs, models
from gateway.v1 import errors as errors

PREFIX = "/v1"
UPLOAD_PATH = f"{PREFIX}{files.FILES_PATH}"

# OpenAI's own reference documents these routes; our OpenAPI page has the native ones.
router = APIRouter(prefix=PREFIX, include_in_schema=False)
for resource in (files, jobs, job_events, models, chat):
    router.include_router(resource.router)
