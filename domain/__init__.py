"""The rules of EcoLink. Importing it registers every event's topic."""

from domain.account import Account
from domain.api_key import ApiKey
from domain.base_model import BaseModel
from domain.dataset import Dataset
from domain.gpu_pool import GpuPool
from domain.job import Job
from domain.meter import Meter

AGGREGATES = (Account, ApiKey, BaseModel, Dataset, GpuPool, Job, Meter)
"""Every aggregate, so that any stored event can be read."""
