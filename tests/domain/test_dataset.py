"""Dataset, BaseModel and ApiKey: small streams with small rules."""

from __future__ import annotations

from uuid import UUID

import pytest

from domain.account import Role
from domain.api_key import ApiKey, new_secret
from domain.base_model import BaseModel
from domain.dataset import Dataset, DatasetStatus
from domain.errors import WrongState
from tests.domain.examples import ACCOUNT_ID, DATASET_ID, happened


def uploaded() -> Dataset:
    dataset = Dataset.uploaded(DATASET_ID, ACCOUNT_ID, "uploads/x", "s" * 64, 100)
    dataset.collect_events()
    return dataset


def test_a_valid_file_becomes_ready_in_its_normalised_form() -> None:
    given = uploaded()
    given.validate("datasets/x", "n" * 64, examples=9, duplicates=1, report_ref="report")
    assert given.status is DatasetStatus.READY_FOR_TRAINING
    assert (given.ref, given.sha256) == ("datasets/x", "n" * 64)


def test_a_file_is_judged_once() -> None:
    given = uploaded()
    given.reject(errors=3, report_ref="report")
    with pytest.raises(WrongState):
        given.validate("datasets/x", "n" * 64, examples=9, duplicates=0, report_ref="report")
    with pytest.raises(WrongState):
        given.reject(errors=3, report_ref="report")


def test_tokens_are_counted_once_for_each_revision_of_a_base() -> None:
    given = uploaded()
    with pytest.raises(WrongState):
        given.record_tokens("tiny", "r1", 100, 20)
    given.validate("datasets/x", "n" * 64, examples=9, duplicates=0, report_ref="report")
    given.record_tokens("tiny", "r1", 100, 20)
    given.record_tokens("tiny", "r1", 100, 20)
    given.record_tokens("tiny", "r2", 110, 20)
    assert happened(given) == ["DatasetValidated", "TokensCounted", "TokensCounted"]


def test_a_base_model_is_revised_by_other_content_alone() -> None:
    given = BaseModel.imported("tiny", "models/tiny", "m1", "LlamaForCausalLM", 1000, 256)
    given.revise("models/tiny", "m1", "LlamaForCausalLM", 1000, 256)
    given.revise("models/tiny", "m2", "LlamaForCausalLM", 1000, 512)
    assert happened(given) == ["BaseModelImported", "BaseModelRevised"]
    assert given.context_length == 512


def test_a_key_is_revoked_once_and_its_secret_is_nowhere() -> None:
    secret = new_secret()
    given = ApiKey.issue(ACCOUNT_ID, Role.USER, secret)
    given.revoke()
    given.revoke()
    events = given.collect_events()
    assert [type(event).__name__ for event in events] == ["ApiKeyIssued", "ApiKeyRevoked"]
    assert secret not in repr(events)
    assert isinstance(given.id, UUID)
