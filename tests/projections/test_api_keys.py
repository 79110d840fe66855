"""API keys, with their hints but not their secrets."""

from __future__ import annotations

from projections import API_KEYS
from projections.api_keys import keys_of
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import SECRET, History
from tests.projections.conftest import Fold


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
        "revoked_at": None,
    }
    assert keys_of(fold(API_KEYS), ACCOUNT_ID) == [row]
    with command("revoke"):
        key.revoke()
        history.log.commit(key)
    assert keys_of(fold(API_KEYS), ACCOUNT_ID) == [row | {"revoked_at": NOW}]
