"""Routes of the gateway: the native API, the OpenAI-compatible API, and the pages."""

from __future__ import annotations

from fastapi import Depends, FastAPI

from gateway import reference
from gateway.accounts import api as accounts
from gateway.accounts import pages as account_pages
from gateway.audit import pages as audit_pages
from gateway.audit.verification import pages as verification_pages
from gateway.billing import api as billing
from gateway.billing import pages as billing_page
from gateway.catalog import api as catalog
from gateway.chat import openai as chat
from gateway.datasets import api as datasets
from gateway.datasets import openai as openai_files
from gateway.datasets import pages as dataset_pages
from gateway.events import api as events
from gateway.http import health
from gateway.http.openapi import V1_PREFIX
from gateway.http.text_validation import only_texts
from gateway.jobs import api as jobs
from gateway.jobs.openai import events as openai_events
from gateway.jobs.openai import jobs as openai_jobs
from gateway.jobs.pages import comparing, job_list, job_page, live
from gateway.jobs.pages.wizard import page as wizard
from gateway.keys import api as keys
from gateway.keys import pages as key_pages
from gateway.models import api as models
from gateway.models import openai as openai_models
from gateway.models import pages as model_pages
from gateway.operator import api as operator
from gateway.ops import pages as ops_pages
from gateway.ops.catalog import pages as ops_catalog_pages
from gateway.ops.inspection import pages as ops_inspection_pages
from gateway.web import assets, sign_in, viewing
from infrastructure.extensions import loaded

NATIVE = (
    billing,
    accounts,
    keys,
    catalog,
    datasets,
    models,
    jobs,
    events,
    operator,
)
OPENAI = (openai_files, openai_jobs, openai_events, openai_models, chat)
PAGES = (
    sign_in,
    viewing,
    dataset_pages,
    wizard,
    job_list,
    comparing,
    job_page,
    key_pages,
    model_pages,
    billing_page,
    audit_pages,
    verification_pages,
    account_pages,
    ops_pages,
    ops_catalog_pages,
    ops_inspection_pages,
)


def include_routes(app: FastAPI) -> None:
    """Add all routes to the application.

    The application includes each router directly. FastAPI analyzes the routes of nested routers
    once more for each level.
    """
    texts_only = [Depends(only_texts)]
    app.include_router(health.router, dependencies=texts_only)
    for each in NATIVE:
        app.include_router(each.router, prefix="/api", dependencies=texts_only)
    for router in loaded(lambda extension: extension.api):
        app.include_router(router, prefix="/api", dependencies=texts_only)
    for each in OPENAI:
        app.include_router(each.router, prefix=V1_PREFIX, dependencies=texts_only, tags=["openai"])
    app.include_router(reference.router)
    app.include_router(assets.router)
    # First, so that a path such as /datasets/generate is not the ID of a dataset.
    for router in loaded(lambda extension: extension.pages):
        app.include_router(router, dependencies=texts_only, include_in_schema=False)
    for each in PAGES:
        app.include_router(each.router, dependencies=texts_only, include_in_schema=False)
    app.include_router(live.router)
