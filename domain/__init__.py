"""The rules of EcoLink. Importing it registers every event's topic."""

from domain.account import Account
from domain.api_key import ApiKey
from domain.base_model import BaseModel
from domain.catalog import Catalog
from domain.dataset import Dataset
from domain.deployment import Deployment
from domain.gpu_pool import GpuPool
from domain.job import Job
from domain.job_request import JobRequest
from domain.meter import Meter
from domain.payment import Payment

AGGREGATES = (
    Account,
    ApiKey,
    BaseModel,
    Catalog,
    Dataset,
    Deployment,
    GpuPool,
    Job,
    JobRequest,
    Meter,
    Payment,
)
"""Every aggregate, so that any stored event can be read."""
