"""The account holder's commands: datasets, jobs, models and billing, through the JSON API."""

from gateway.cli.billing import billing
from gateway.cli.datasets import datasets
from gateway.cli.jobs import jobs
from gateway.cli.models import models

GROUPS = {"datasets": datasets, "jobs": jobs, "models": models, "billing": billing}
