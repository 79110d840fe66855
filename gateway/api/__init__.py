"""The JSON API under /api, one module for each resource."""

from fastapi import APIRouter, Depends

from gateway.api import (
    accounts,
    billing,
    catalog,
    checkpoints,
    datasets,
    deployments,
    estimates,
    events,
    files,
    health,
    job_commands,
    jobs,
    keys,
    ledger,
    models,
    operator,
)
from gateway.text_validation import only_texts

router = APIRouter(dependencies=[Depends(only_texts)])
router.include_router(health.router)
for resource in (
    accounts,
    keys,
    ledger,
    billing,
    catalog,
    datasets,
    models,
    estimates,
    jobs,
    job_commands,
    checkpoints,
    deployments,
    files,
    events,
    operator,
):
    router.include_router(resource.router, prefix="/api")
