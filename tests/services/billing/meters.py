"""Meters and a lease policy for tests."""

from __future__ import annotations

from uuid import uuid5

from domain.billing.meter import Meter
from services.billing.settlement import LeasePolicy
from tests.builders.examples import ACCOUNT_ID, JOB_ID

POLICY = LeasePolicy(minute_seconds=60, lease_seconds=300, extension_seconds=60)


def meter_of(job: int, rate_micros_per_hour: int) -> Meter:
    """The open meter of one of several jobs, at its rate."""
    opened = Meter.open(ACCOUNT_ID, uuid5(JOB_ID, str(job)), 1, rate_micros_per_hour)
    opened.collect_events()
    return opened
