"""API keys, with their hints but not their secrets."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from domain.access.api_key import ApiKey, new_secret
from domain.core.actor import KEY
from domain.core.aggregate import Cause, because
from projections import API_KEYS
from projections.api_keys import key_of, keys_of
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import RIGHTS, SECRET, History
from tests.projections.conftest import Fold

OPERATOR = UUID(int=7)


@pytest.mark.parametrize(
    ("creator", "by_operator"), [("own key", False), ("operator's key", True), ("host", True)]
)
def test_a_key_that_no_key_of_its_account_created_is_from_an_operator(
    history: History, fold: Fold, creator: str, by_operator: bool
) -> None:
    actors = {
        "own key": f"{KEY}{issue(history, ACCOUNT_ID, 'service:test').id}",
        "operator's key": f"{KEY}{issue(history, OPERATOR, 'service:test').id}",
        "host": "operator:host",
    }
    key = issue(history, ACCOUNT_ID, actors[creator])
    row = key_of(fold(API_KEYS), ACCOUNT_ID, key.id)
    assert row is not None
    assert row["created_by_operator"] is by_operator


def issue(history: History, account_id: UUID, actor: str) -> ApiKey:
    with because(Cause(actor, str(uuid4()), NOW)):
        key = ApiKey.issue(account_id, RIGHTS, new_secret())
        history.log.commit(key)
    return key


def test_a_key_has_its_hint_and_the_time_of_its_revocation(history: History, fold: Fold) -> None:
    key = history.issue_key()
    row = {
        "key_id": key.id,
        "account_id": ACCOUNT_ID,
        "role": "owner",
        "scopes": ["read", "train", "deploy", "billing", "keys"],
        "expires_at": None,
        "hint": SECRET[-4:],
        "issued_at": NOW,
        "created_by_operator": True,
        "revoked_at": None,
    }
    assert keys_of(fold(API_KEYS), ACCOUNT_ID) == [row]
    with command("revoke"):
        key.revoke()
        history.log.commit(key)
    assert keys_of(fold(API_KEYS), ACCOUNT_ID) == [row | {"revoked_at": NOW}]
