"""A backup has the answers of an open batch, and a restore keeps the edits of known syntheses."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from extensions.backup import creating
from extensions.backup.database import NEVER, copy_events
from extensions.backup.keys import read_keys
from extensions.backup.manifest import EventChunk
from extensions.backup.point_in_time import Moment
from extensions.synthesis.edits import set_removed
from extensions.synthesis.endpoint_rows import KEYS
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect, scalar
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import History
from tests.extensions.backup.conftest import Backups
from tests.extensions.backup.conftest import backups as backups
from tests.extensions.backup.test_point_in_time import restore

ANSWER = "attempts/000003.answer.json"


@pytest.mark.full
def test_a_restored_store_has_the_answers_of_an_open_batch(backups: Backups) -> None:
    backups.artifacts.put(f"syntheses/a/b/{ANSWER}", b"{}")
    backups.artifacts.put("syntheses/a/b/batches/00001.jsonl", b"unnamed")
    backups.restore(backups.create())
    found = Artifacts(backups.elsewhere.artifacts).list("syntheses")
    assert found == [f"syntheses/a/b/{ANSWER}"]


def test_a_backup_has_the_answers_of_a_batch_that_ends_meanwhile(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = "syntheses/a/b/attempts/000003.answer.json"
    backups.artifacts.put(ref, b"{}")

    def copy(*arguments: Any) -> list[EventChunk]:
        backups.artifacts.delete(ref)
        return copy_events(*arguments)

    monkeypatch.setattr(creating, "copy_events", copy)
    backups.restore(backups.create())
    assert Artifacts(backups.elsewhere.artifacts).get(ref) == b"{}"


@pytest.mark.full
def test_a_cut_keeps_the_edits_of_known_syntheses(backups: Backups) -> None:
    last = backups.head
    later = History(backups.history.log, UUID(int=50))
    later.open_account(5)
    with connect(backups.settings) as store:
        for number, id in enumerate((ACCOUNT_ID, later.account_id), 1):
            set_removed(store, ACCOUNT_ID, synthesis_id=id, number=number, removed=True)
    restore(backups, Moment(event=last))
    with connect(backups.elsewhere) as store:
        # An edit replaces an earlier one, so those of known syntheses stay, even if they are later.
        assert scalar(store, "SELECT array_agg(number) FROM synthesis_edits WHERE removed") == [1]


def test_a_restore_repeats_an_erasure_of_answers(backups: Backups) -> None:
    ref = f"syntheses/{backups.history.account_id}/{UUID(int=6)}/{ANSWER}"
    backups.artifacts.put(ref, b"line")
    backups.history.suspend()
    with backups.history.changing_account() as account:
        account.erase()
    backups.seal()
    made = backups.create()
    backups.restore(made, keys=read_keys(backups.keys, made.id))
    assert not Artifacts(backups.elsewhere.artifacts).exists(ref)


def test_no_backup_has_the_keys_of_endpoints() -> None:
    assert KEYS.name in NEVER
