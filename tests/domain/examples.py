"""Aggregates as tests need them, and what happened to them since."""

from __future__ import annotations

from uuid import UUID

from domain.account import Account, Role
from domain.aggregate import Aggregate
from domain.hyperparameters import Hyperparameters
from domain.job import Job, TrainingPlan
from domain.meter import Meter

ACCOUNT_ID = UUID("11111111-1111-5111-8111-111111111111")
JOB_ID = UUID("22222222-2222-5222-8222-222222222222")
DATASET_ID = UUID("33333333-3333-5333-8333-333333333333")

PLAN = TrainingPlan(
    dataset_id=DATASET_ID,
    dataset_ref="datasets/a/examples.jsonl",
    dataset_sha256="d" * 64,
    base_model="tiny",
    base_ref="models/tiny",
    base_manifest_sha256="b" * 64,
    region="local",
    gpu_type="cpu",
    gpu_count=1,
    rate_micros_per_hour=3_600_000,
    catalog_version="test",
    hyperparameters=Hyperparameters().model_dump(mode="json"),
)
"""A plan that costs 1,000 micro-dollars a second."""


def happened(aggregate: Aggregate) -> list[str]:
    """Topics of what happened since the last look."""
    return [type(event).TOPIC for event in aggregate.collect_events()]  # type: ignore[attr-defined]


def account(balance_micros: int = 0) -> Account:
    """An open account with some credit."""
    opened = Account.open(ACCOUNT_ID, Role.USER, "UTC")
    if balance_micros:
        opened.grant_credit(balance_micros, "first")
    opened.collect_events()
    return opened


def meter(paid_seconds: int = 0) -> Meter:
    """An open meter of segment 1, with a lease or without."""
    opened = Meter.open(ACCOUNT_ID, JOB_ID, 1, PLAN.rate_micros_per_hour)
    if paid_seconds:
        opened.extend_lease(paid_seconds)
    opened.collect_events()
    return opened


def job() -> Job:
    """An approved job."""
    approved = Job.approve(JOB_ID, ACCOUNT_ID, PLAN)
    approved.collect_events()
    return approved
