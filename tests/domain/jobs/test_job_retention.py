"""Job: what a stopped job had saved, until it is promoted or expires."""

from __future__ import annotations

import pytest

from domain.core.aggregate import because
from domain.core.errors import WrongState
from domain.jobs import events
from domain.jobs.failures import FailureClass
from domain.jobs.job import JobStatus, SegmentEnd
from tests.builders.examples import (
    RETENTION,
    at,
    cancelled,
    ending,
    happened,
    job,
    paused,
    running,
    save_checkpoint,
)


def test_resume_what_a_paused_job_saved_never_expires() -> None:
    given = paused()
    with because(at(10 * 365 * 86400)):
        given.expire_adapter()
    assert happened(given) == []


def test_promote_what_was_saved_becomes_a_model_once() -> None:
    given = cancelled()
    given.promote()
    given.promote()
    (event,) = given.collect_events()
    assert isinstance(event, events.AdapterPromoted)
    assert (event.model, event.adapter_ref) == ("ft:tiny:222222222222", "checkpoints/1/10")
    assert event.manifest_sha256 == "c" * 64
    assert (given.status, given.model is not None) == (JobStatus.CANCELLED, True)


def test_promote_without_a_checkpoint_there_is_nothing_to_promote() -> None:
    given = job()
    given.cancel(RETENTION)
    with pytest.raises(WrongState):
        given.promote()


def test_promote_what_a_failed_job_had_saved_never_expires_and_becomes_a_model() -> None:
    given = running()
    save_checkpoint(given, 1, 10)
    given.end_segment(1, ending(SegmentEnd.CRASHED, 60, failure=FailureClass.LOSS_DIVERGED))
    given.collect_events()
    with because(at(10 * 365 * 86400)):
        given.expire_adapter()
        given.promote()
        given.promote()
    assert happened(given) == ["AdapterPromoted"]
    assert (given.status, given.model is not None) == (JobStatus.FAILED, True)


def test_promote_a_job_that_failed_without_a_checkpoint_has_nothing() -> None:
    given = running()
    given.end_segment(1, ending(SegmentEnd.CRASHED, 60, failure=FailureClass.BAD_DATA))
    with pytest.raises(WrongState):
        given.promote()


@pytest.mark.parametrize("other", [running, paused])
def test_promote_only_a_cancelled_or_failed_job_is_promoted(other: object) -> None:
    assert callable(other)
    with pytest.raises(WrongState):
        other().promote()


def test_promote_after_its_time_it_is_refused_even_before_the_broom_came() -> None:
    given = cancelled()
    with because(at(RETENTION.total_seconds())), pytest.raises(WrongState):
        given.promote()


def test_expire_not_before_its_time_and_once() -> None:
    given = cancelled()
    with because(at(RETENTION.total_seconds() - 1)):
        given.expire_adapter()
    assert happened(given) == []
    with because(at(RETENTION.total_seconds())):
        given.expire_adapter()
        given.expire_adapter()
    (event,) = given.collect_events()
    assert isinstance(event, events.AdapterExpired)
    assert event.adapter_ref == "checkpoints/1/10"


def test_expire_what_was_promoted_stays() -> None:
    given = cancelled()
    given.promote()
    with because(at(RETENTION.total_seconds() + 1)):
        given.expire_adapter()
        given.promote()
    assert happened(given) == ["AdapterPromoted"]


def test_expire_what_expired_is_not_promoted() -> None:
    given = cancelled()
    with because(at(RETENTION.total_seconds())):
        given.expire_adapter()
    with pytest.raises(WrongState):
        given.promote()


def test_delete_a_model_once_and_for_good() -> None:
    given = cancelled()
    with pytest.raises(WrongState):
        given.delete_model()
    given.promote()
    given.delete_model()
    given.delete_model()
    assert happened(given) == ["AdapterPromoted", "ModelDeleted"]
    with pytest.raises(WrongState):
        given.promote()
