"""The business rules of EcoLink. Importing this package registers the topics of all events."""

from domain.access.api_key import ApiKey
from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUp
from domain.billing.card_payment import CardPayment
from domain.billing.meter import Meter
from domain.billing.payment import Payment
from domain.billing.token_meter import TokenMeter
from domain.capacity.gpu_pool import GpuPool
from domain.catalog.base_model import BaseModel
from domain.catalog.catalog import Catalog
from domain.datasets.dataset import Dataset
from domain.deployments.deployment import Deployment
from domain.jobs.job import Job
from domain.jobs.job_request import JobRequest

AGGREGATES = (
    Account,
    ApiKey,
    AutoTopUp,
    BaseModel,
    CardPayment,
    Catalog,
    Dataset,
    Deployment,
    GpuPool,
    Job,
    JobRequest,
    Meter,
    Payment,
    TokenMeter,
)
"""All aggregate classes."""
