"""JobRequest: an order that waits for its files."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.core.errors import InsufficientBalance, WrongState
from domain.core.identity import job_request_id
from domain.jobs.choices import Choices
from domain.jobs.job_request import JobRequest, Refusal, RequestStatus
from domain.training.hyperparameters import Hyperparameters
from domain.training.training_plan import Order
from tests.builders.examples import ACCOUNT_ID, DATASET_ID, JOB_ID, happened

CHOICES = Choices(DATASET_ID, "tiny", "", "cpu", 1, Hyperparameters(epochs=2))
ORDER = Order("support", deploy=True, request_sha256="a" * 64)
TOO_POOR = InsufficientBalance("the balance is $0.00")

Command = Callable[[JobRequest], None]


def request() -> JobRequest:
    return JobRequest.ordered(JOB_ID, ACCOUNT_ID, CHOICES, ORDER)


def test_a_request_keeps_what_was_ordered() -> None:
    given = request()
    assert given.id == job_request_id(JOB_ID)
    assert (given.job_id, given.choices, given.order) == (JOB_ID, CHOICES, ORDER)
    assert (given.region, given.gpu_type) == (None, "cpu")
    assert given.status is RequestStatus.VALIDATING_FILES
    assert happened(given) == ["JobRequested"]


ENDS: list[tuple[Command, str, RequestStatus]] = [
    (lambda it: it.approve(), "JobRequestApproved", RequestStatus.APPROVED),
    (lambda it: it.refuse(TOO_POOR), "JobRequestRefused", RequestStatus.FAILED),
    (lambda it: it.cancel(), "JobRequestCancelled", RequestStatus.CANCELLED),
]


@pytest.mark.parametrize(("end", "topic", "status"), ENDS)
def test_a_request_ends_in_one_way(end: Command, topic: str, status: RequestStatus) -> None:
    given = request()
    end(given)
    assert happened(given) == ["JobRequested", topic]
    assert given.status is status
    assert not given.is_open
    for other, its_topic, _ in ENDS:
        if its_topic != topic:
            with pytest.raises(WrongState):
                other(given)
    assert happened(given) == []


@pytest.mark.parametrize("again", [ENDS[0][0], ENDS[2][0]])
def test_an_approval_and_a_cancellation_may_be_repeated(again: Command) -> None:
    given = request()
    again(given)
    again(given)
    assert len(happened(given)) == 2


def test_a_refused_request_says_why() -> None:
    given = request()
    given.refuse(TOO_POOR)
    assert given.refusal == Refusal("insufficient_balance", "the balance is $0.00", None)
