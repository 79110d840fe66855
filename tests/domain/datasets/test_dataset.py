"""Dataset, BaseModel and ApiKey: small streams with small rules."""

from __future__ import annotations

from uuid import UUID

import pytest

from domain.access.api_key import ApiKey, new_secret
from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from domain.core.errors import WrongState
from domain.datasets.dataset import (
    Contents,
    Counted,
    Dataset,
    DatasetStatus,
)
from domain.training.token_lengths import TokenLengths
from tests.builders.examples import ACCOUNT_ID, DATASET_ID, JOB_ID, happened


def uploaded() -> Dataset:
    dataset = Dataset.uploaded(DATASET_ID, ACCOUNT_ID, "uploads/x", "s" * 64, 100)
    dataset.collect_events()
    return dataset


def test_a_valid_file_becomes_ready_in_its_normalized_form() -> None:
    given = uploaded()
    given.validate("datasets/x", "n" * 64, Contents(9, 1), report_ref="report")
    assert given.status is DatasetStatus.READY_FOR_TRAINING
    assert (given.ref, given.sha256) == ("datasets/x", "n" * 64)


def test_a_file_is_judged_once() -> None:
    given = uploaded()
    given.reject(errors=3, report_ref="report")
    with pytest.raises(WrongState):
        given.validate("datasets/x", "n" * 64, Contents(9, 0), report_ref="report")
    with pytest.raises(WrongState):
        given.reject(errors=3, report_ref="report")


def test_tokens_are_counted_once_for_each_revision_of_a_base() -> None:
    given = uploaded()
    lengths, longer = TokenLengths.of([20, 40]), TokenLengths.of([22, 44])
    with pytest.raises(WrongState):
        given.record_tokens("tiny", "r1", lengths)
    given.validate("datasets/x", "n" * 64, Contents(9, 0), report_ref="report")
    given.record_tokens("tiny", "r1", lengths)
    given.record_tokens("tiny", "r1", lengths)
    assert given.counted == {"tiny": Counted("r1", lengths)}
    assert given.is_counted("tiny", "r1")
    assert not given.is_counted("tiny", "r2")
    given.record_tokens("tiny", "r2", longer)
    assert given.counted == {"tiny": Counted("r2", longer)}
    counted = [each for each in given.collect_events() if isinstance(each, Dataset.TokensCounted)]
    assert [(each.tokens, each.longest_example) for each in counted] == [(60, 40), (66, 44)]


def test_a_file_is_deleted_once_and_not_while_a_job_needs_it() -> None:
    given = uploaded()
    with pytest.raises(WrongState) as refused:
        given.delete(used_by=[JOB_ID])
    assert refused.value.figures == {"jobs": [str(JOB_ID)]}
    given.delete(used_by=[])
    given.delete(used_by=[])
    assert given.status is DatasetStatus.DELETED
    with pytest.raises(WrongState):
        given.record_tokens("tiny", "r1", TokenLengths.of([20]))
    assert happened(given) == ["DatasetDeleted"]


def test_a_key_is_revoked_once_and_its_secret_is_nowhere() -> None:
    secret = new_secret()
    given = ApiKey.issue(ACCOUNT_ID, Rights(Role.OWNER, tuple(Scope)), secret)
    given.revoke()
    given.revoke()
    events = given.collect_events()
    assert [type(event).__name__ for event in events] == ["ApiKeyIssued", "ApiKeyRevoked"]
    assert secret not in repr(events)
    assert isinstance(given.id, UUID)
