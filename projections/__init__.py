"""The read models.

The projector runs `PROJECTIONS`. An audit compares the read models with the event log.
"""

from infrastructure.extensions import installed
from projections.account_events import ACCOUNT_EVENTS
from projections.accounts import ACCOUNTS
from projections.api_keys import API_KEYS
from projections.base_models import BASE_MODELS
from projections.billing_ledger import BILLING_LEDGER
from projections.datasets import DATASETS
from projections.deployments import DEPLOYMENTS
from projections.estimates import ESTIMATES
from projections.gpu_pools import GPU_POOLS
from projections.job_detail import JOB_DETAIL
from projections.job_requests import JOB_REQUESTS
from projections.job_timeline import JOB_TIMELINE
from projections.models import MODELS
from projections.open_meters import OPEN_METERS

PROJECTIONS = (
    ACCOUNT_EVENTS,
    ACCOUNTS,
    API_KEYS,
    BASE_MODELS,
    BILLING_LEDGER,
    DATASETS,
    DEPLOYMENTS,
    ESTIMATES,
    GPU_POOLS,
    JOB_DETAIL,
    JOB_REQUESTS,
    JOB_TIMELINE,
    MODELS,
    OPEN_METERS,
    *(one.load(each) for one in installed() for each in one.projections),
)
