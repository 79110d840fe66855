from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.core.errors import InsufficientBalance, WrongState
from domain.core.identity import job_request_id
from domain.jobs.choices import Choices
from domain.jobs.job_request import JobRequest, Refusal, RequestStatus
from domain.training.hyperparameters import Hyperparameters
from domain.training.training_plan import Order
from tests.builders.examples import ACCOUNT_ID, DATASET_ID, JOB_ID
from tests.builders.scenario import fact, topics, when

CHOICES = Choices(DATASET_ID, "tiny", "", "cpu", 1, Hyperparameters(epochs=2))
ORDER = Order(suffix="support", deploy=True, request_sha256="a" * 64)
TOO_POOR = InsufficientBalance("the balance is $0.00")


def request() -> JobRequest:
    return JobRequest.ordered(JOB_ID, ACCOUNT_ID, CHOICES, ORDER)


def test_a_request_records_the_choices_and_the_order() -> None:
    given = request()
    assert given.id == job_request_id(JOB_ID)
    assert (given.job_id, given.choices, given.order) == (JOB_ID, CHOICES, ORDER)
    assert given.is_open
    assert given.collect_events() == [fact("JobRequested", region=None, gpu_type="cpu")]


def refuse(given: JobRequest) -> None:
    given.refuse(TOO_POOR)


ENDS = [
    (JobRequest.approve, "JobRequestApproved", RequestStatus.APPROVED),
    (refuse, "JobRequestRefused", RequestStatus.FAILED),
    (JobRequest.cancel, "JobRequestCancelled", RequestStatus.CANCELLED),
]


@pytest.mark.parametrize(("end", "topic", "status"), ENDS)
def test_a_request_ends_in_one_way(
    end: Callable[[JobRequest], object], topic: str, status: RequestStatus
) -> None:
    given = request()
    assert topics(when(given, end)) == [topic]
    assert given.status is status
    for other, _, _ in ENDS:
        if other is not end:
            with pytest.raises(WrongState):
                other(given)
    if end is not refuse:
        assert when(given, end) == [], "a repeated command has no effect"


def test_a_refused_request_records_the_reason() -> None:
    given = request()
    given.refuse(TOO_POOR)
    assert given.refusal == Refusal("insufficient_balance", "the balance is $0.00", None)
