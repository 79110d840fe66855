"""The site: its pages, one module for each part of the navigation."""

from __future__ import annotations

from fastapi import APIRouter, Depends, FastAPI

from gateway.text_validation import only_texts
from gateway.web import (
    assets,
    billing,
    comparing,
    datasets,
    job_page,
    jobs,
    keys,
    live,
    models,
    playground,
    sign_in,
    wizard,
)

router = APIRouter(dependencies=[Depends(only_texts)], include_in_schema=False)
for part in (
    sign_in,
    datasets,
    wizard,
    jobs,
    comparing,
    job_page,
    playground,
    keys,
    models,
    billing,
):
    router.include_router(part.router)


def install(app: FastAPI) -> None:
    """Have the application serve the pages."""
    assets.assets()  # a gateway without them ends at once, and says why
    app.include_router(assets.router)
    app.include_router(router)
    app.include_router(live.router)
