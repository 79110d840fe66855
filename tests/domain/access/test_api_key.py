"""API keys of earlier versions, and roles that had another name."""

from __future__ import annotations

import json

from eventsourcing.persistence import JSONTranscoder, StoredEvent

from domain.access.api_key import ApiKey
from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from domain.billing.account import Account
from domain.core.event_log import PydanticMapper
from tests.builders.commands import NOW, command
from tests.builders.examples import ACCOUNT_ID

MAPPER = PydanticMapper(JSONTranscoder())


def as_first_version(event: object, **former: object) -> StoredEvent:
    """Return the row of an event as the first version stored it."""
    row = MAPPER.to_stored_event(event)  # type: ignore[arg-type]
    state = json.loads(row.state) | former
    for name in ("class_version", "scopes", "expires_at"):
        state.pop(name, None)
    return StoredEvent(
        row.originator_id, row.originator_version, row.topic, json.dumps(state).encode()
    )


def test_a_key_without_scopes_has_all_and_does_not_expire() -> None:
    with command():
        limited = ApiKey.issue(ACCOUNT_ID, Rights(Role.OWNER, (Scope.READ,), NOW), "eco_x")
    (issued,) = limited.collect_events()
    event = MAPPER.to_domain_event(as_first_version(issued, role="user"))
    key = event.mutate(None)  # type: ignore[attr-defined]
    assert key.rights == Rights(Role.OWNER, tuple(Scope))


def test_an_account_of_a_user_is_that_of_an_owner() -> None:
    with command():
        (opened,) = Account.open(ACCOUNT_ID, Role.OWNER, "UTC").collect_events()
    event = MAPPER.to_domain_event(as_first_version(opened, role="user"))
    assert isinstance(event, Account.AccountOpened)
    assert event.role is Role.OWNER


def test_a_snapshot_of_a_user_is_that_of_an_owner() -> None:
    with command():
        snapshot = Account.Snapshot.take(Account.open(ACCOUNT_ID, Role.OPERATOR, "UTC"))
    row = MAPPER.to_stored_event(snapshot)
    state = json.loads(row.state)
    del state["class_version"]
    state["state"]["role"] = "user"
    former = StoredEvent(
        row.originator_id, row.originator_version, row.topic, json.dumps(state).encode()
    )
    restored = MAPPER.to_domain_event(former)
    assert isinstance(restored, Account.Snapshot)
    assert restored.state.role is Role.OWNER
