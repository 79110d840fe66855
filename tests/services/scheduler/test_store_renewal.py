"""Renewal of the keys of running trainers."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from domain.core.event_log import EventLog
from domain.jobs.job import Job
from infrastructure.artifacts.s3_requests import UNREACHABLE, S3Refused
from infrastructure.training.reports import StoreCredentials
from infrastructure.training.store_credentials import StoreAccess, StoreIssuer
from services.scheduler.control import ControlChannel
from services.scheduler.store_renewal import StoreRenewals
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID, PLAN

KEY = (JOB_ID, 1)


class Issuer(StoreIssuer):
    """Issues numbered keys, or refuses."""

    accesses: list[StoreAccess] = []  # the base is frozen
    reachable = [True]

    def issue(self, job_id: UUID, segment: int, access: StoreAccess) -> StoreCredentials:
        if not self.reachable[0]:
            raise S3Refused(UNREACHABLE, "connection refused")
        self.accesses.append(access)
        return StoreCredentials(
            access_key_id=f"key-{len(self.accesses)}",
            secret_access_key="s",
            session_token="t",
            expires_at=datetime(2026, 1, 1, tzinfo=UTC),
        )


class Control:
    """Records the keys that are sent."""

    def __init__(self) -> None:
        self.running, self.sent = [KEY], list[str]()

    def segments(self) -> list[tuple[UUID, int]]:
        return self.running

    def renew_store(self, job_id: UUID, segment: int, credentials: StoreCredentials) -> None:
        self.sent.append(credentials.access_key_id)


@pytest.fixture
def control() -> Control:
    return Control()


def renewals(control: Control, valid_seconds: int) -> StoreRenewals:
    with command():
        job = Job.approve(JOB_ID, ACCOUNT_ID, PLAN, ESTIMATE)
        job.allocate_segment(1)
    Issuer.accesses.clear()
    Issuer.reachable[0] = True
    log = cast(EventLog, SimpleNamespace(load=lambda *_: job))
    issuer = Issuer("s3://bucket", "role", valid_seconds)
    return StoreRenewals(log, cast(ControlChannel, cast(Any, control)), issuer)


def test_keys_are_renewed_when_a_third_of_their_validity_is_over(control: Control) -> None:
    lasting = renewals(control, 10**6)
    lasting.renew_due()
    lasting.renew_due()
    assert control.sent == ["key-1"]
    (access,) = Issuer.accesses
    assert f"jobs/{ACCOUNT_ID}/{JOB_ID}/checkpoints/segment-1" in access.written_folders
    over = renewals(control, 0)
    over.renew_due()
    over.renew_due()
    assert control.sent[1:] == ["key-1", "key-2"]


def test_an_ended_segment_gets_no_keys(control: Control) -> None:
    control.running = [(JOB_ID, 7)]
    renewals(control, 900).renew_due()
    assert control.sent == []


def test_an_unreachable_sts_is_asked_again(control: Control) -> None:
    renewing = renewals(control, 10**6)
    Issuer.reachable[0] = False
    renewing.renew_due()
    assert control.sent == []
    Issuer.reachable[0] = True
    renewing.renew_due()
    assert control.sent == ["key-1"]
