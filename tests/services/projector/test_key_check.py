"""The check of actors: keys act after their issue, until their end, and on their own account."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from domain.access.api_key import ApiKey
from domain.access.rights import Rights
from domain.access.role import Role
from domain.billing.account import Account
from domain.core.aggregate import Aggregate, Cause, Event, because
from domain.jobs.job_request import JobRequest
from infrastructure.bus.consumer import Recorded
from services.projector.key_check import KeyCheck
from services.projector.store_checks import DifferenceKind
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID
from tests.domain.jobs.test_job_request import CHOICES, ORDER

HOST = "operator:host"
OTHER = uuid4()


class Log:
    """A log in memory. Times are in hours after noon."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, aggregate: Aggregate) -> None:
        self.events += aggregate.collect_events()  # type: ignore[arg-type]

    def issue(self, role: Role = Role.OWNER, expires: float | None = None) -> ApiKey:
        ends = None if expires is None else NOW + timedelta(hours=expires)
        with because(Cause(HOST, "issue", NOW)):
            key = ApiKey.issue(ACCOUNT_ID, Rights(role, role.scopes, ends), str(uuid4()))
        self.add(key)
        return key

    def revoke(self, key: ApiKey, hours: float) -> None:
        """Revoke a key with itself."""
        with because(cause(f"key:{key.id}", hours)):
            key.revoke()
        self.add(key)

    def act(self, actor: str, hours: float = 0.0, account_id: UUID = ACCOUNT_ID) -> None:
        with because(cause(actor, hours)):
            self.add(Account.open(account_id, Role.OWNER, "UTC"))

    def problems(self) -> list[str]:
        check = KeyCheck()
        check.take([Recorded.of(id, event) for id, event in enumerate(self.events, start=1)])
        found = list(check.differences())
        assert all(each.kind is DifferenceKind.ACTOR for each in found)
        return [each.text for each in found]


def cause(actor: str, hours: float, causation_id: str | None = None) -> Cause:
    return Cause(actor, str(uuid4()), NOW + timedelta(hours=hours), causation_id)


def test_a_key_acts_from_its_issue_to_its_end() -> None:
    log = Log()
    key = log.issue(expires=5)
    actor = f"key:{key.id}"
    log.act(actor, 1)
    log.revoke(key, 2)
    log.act(actor, 2.001)  # its command began before
    log.act(f"account:{ACCOUNT_ID}", 3)  # as before keys were recorded
    log.act("service:billing", 3)
    assert log.problems() == []


def test_an_operator_acts_on_other_accounts() -> None:
    log = Log()
    log.act(f"key:{log.issue(Role.OPERATOR).id}", account_id=OTHER)
    assert log.problems() == []


@pytest.mark.parametrize("actor", [f"key:{UUID(int=99)}", "key:x", "key:"])
def test_an_unknown_key_is_named_with_its_event(actor: str) -> None:
    log = Log()
    log.act(actor)
    (text,) = log.problems()
    assert text.startswith(f"event 1 names {actor} as its actor, but ")


def test_a_key_that_is_issued_later_could_not_have_acted() -> None:
    later, log = Log(), Log()
    key = later.issue()
    log.act(f"key:{key.id}")
    log.events += later.events
    assert log.problems() == [
        f"event 1 names key:{key.id} as its actor, but no earlier event issued this key"
    ]


@pytest.mark.parametrize("hours", [3, 1], ids=["its own time", "a forged earlier time"])
def test_a_revoked_key_could_not_have_acted(hours: float) -> None:
    log = Log()
    key = log.issue()
    log.revoke(key, 2)
    log.act("service:billing", 3)
    log.act(f"key:{key.id}", hours)
    (text,) = log.problems()
    assert text.startswith("event 4 ")
    assert text.endswith("event 2 had revoked this key")


@pytest.mark.parametrize("hours", [3, 1], ids=["its own time", "a forged earlier time"])
def test_an_expired_key_could_not_have_acted(hours: float) -> None:
    log = Log()
    key = log.issue(expires=2)
    log.act("service:billing", 3)
    log.act(f"key:{key.id}", hours)
    (text,) = log.problems()
    assert text.endswith("this key had expired at 2026-11-24 14:00:00 UTC")


@pytest.mark.parametrize("role", [Role.OWNER, Role.MEMBER, Role.AUDITOR])
def test_the_key_of_another_account_could_not_have_acted(role: Role) -> None:
    log = Log()
    log.act(f"key:{log.issue(role).id}", account_id=OTHER)
    (text,) = log.problems()
    assert text.endswith(f"this key belongs to account {ACCOUNT_ID}")


def test_a_request_that_waited_for_its_files_keeps_the_key_that_ended() -> None:
    log = Log()
    key = log.issue()
    actor = f"key:{key.id}"
    with because(cause(actor, 1)):
        request = JobRequest.ordered(uuid4(), ACCOUNT_ID, CHOICES, ORDER)
    log.add(request)
    log.revoke(key, 2)
    approval = cause(actor, 5, f"{request.id}:1")
    with because(approval):
        request.approve()
        log.add(request)
        log.add(Account.open(ACCOUNT_ID, Role.OWNER, "UTC"))  # saved with it
    assert log.problems() == []
    with because(cause(actor, 5, f"{request.id}:1")):
        log.add(Account.open(ACCOUNT_ID, Role.OWNER, "UTC"))  # another command
    (text,) = log.problems()
    assert text.startswith("event 6 ")
