"""A backup of a running EcoLink is restored elsewhere, complete and verified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from deploy.database_roles import known_tables
from domain.core.event_format import FORMAT
from extensions.backup import database
from extensions.backup.database import EPHEMERAL, FOLDED, NEVER, SECRETS
from extensions.backup.keys import read_keys
from extensions.backup.point_in_time import Moment
from extensions.backup.restoring import ASIDE
from extensions.backup.target import BackupError
from infrastructure.artifacts.store import Artifacts
from infrastructure.extensions import signed_folders
from infrastructure.postgres import format_in_use
from infrastructure.postgres.log_identity import is_held, log_identity
from infrastructure.postgres.store import Connection, connect, connect_to, open_log, scalar
from infrastructure.seals.archive import LastHead
from infrastructure.settings import Settings
from services.projector.audit import audit
from tests.builders.history import History
from tests.extensions.backup.conftest import ADAPTER, CHECKPOINT, Backups

EVENTS = "SELECT * FROM ecolink_events ORDER BY notification_id"


def rows(settings: Settings, query: str) -> list[dict[str, Any]]:
    with connect(settings) as store:
        return store.execute(query.encode()).fetchall()


def test_a_restored_log_equals_the_original(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CHUNK_EVENTS", 5)
    made = backups.create()
    assert len(made.chunks) > 2
    restored = backups.restore(made, keys=read_keys(backups.keys, made.id))
    for query in (EVENTS, "SELECT * FROM profiles", "SELECT * FROM segment_evidence"):
        assert rows(backups.elsewhere, query) == rows(backups.settings, query)
    assert restored.events == restored.sealed_events == made.events
    assert (restored.missing, restored.aside, restored.has_seal_key) == ([], None, True)
    with connect(backups.settings) as old, connect(backups.elsewhere) as new:
        assert log_identity(old) == log_identity(new)
        assert (is_held(old), is_held(new)) == (False, True)
    assert audit(backups.elsewhere).differences == []
    with open_log(backups.elsewhere) as log:
        History(backups.history.log, UUID(int=76)).open_account(1)  # after the backup
        assert backups.head > made.last_event
        History(log, UUID(int=77)).open_account(1)
        (first,) = log.recorder.select_notifications(made.last_event + 1, 1)
        assert first.id > backups.head


@pytest.mark.full
def test_read_models_of_another_shape_are_rebuilt(backups: Backups) -> None:
    made = backups.create()
    older = made.model_copy(update={"shapes": made.shapes | {"accounts": "older"}})
    backups.restore(older, replays=False)
    assert rows(backups.elsewhere, "SELECT * FROM accounts") != []
    assert audit(backups.elsewhere).differences == []


@pytest.mark.full
def test_a_restored_store_has_what_the_log_names_and_the_documents(backups: Backups) -> None:
    signed = [f"{folder}/1/document.json" for folder in signed_folders()]
    for ref in signed:
        backups.artifacts.put(ref, b"{}")
    backups.artifacts.put("jobs/a/b/logs/segment-1.log", b"line")
    backups.artifacts.put("jobs/a/b/checkpoints/segment-1/9/weights", b"unnamed")
    backups.restore(backups.create())
    kept = [
        ref
        for ref in Artifacts(backups.elsewhere.artifacts).list("")
        if not ref.startswith("seals")
    ]
    expected = [
        f"{ADAPTER}/manifest.json",
        f"{ADAPTER}/weights",
        "jobs/a/b/logs/segment-1.log",
        f"{CHECKPOINT}/manifest.json",
        f"{CHECKPOINT}/weights",
    ]
    assert kept == sorted([*signed, *expected])


@pytest.mark.full
def test_a_second_backup_copies_only_what_is_new(backups: Backups) -> None:
    first = {each.ref for each in backups.create().blobs}
    backups.history.top_up(5, "later")
    second = backups.create()
    folder = backups.target.directory
    assert folder is not None
    stored = {path.relative_to(folder).as_posix() for path in folder.glob("blobs/*/*")}
    assert stored == first | {each.ref for each in second.blobs}
    assert [each.path for each in second.artifacts] == [
        each.path for each in backups.target.manifest(backups.target.ids()[0]).artifacts
    ]


def test_events_after_the_backup_are_not_in_it(backups: Backups) -> None:
    made = backups.create()
    backups.history.top_up(5, "later")
    backups.seal()
    restored = backups.restore(made, keys=read_keys(backups.keys, made.id))
    assert restored.last_event == made.last_event < backups.head
    key = backups.seal()
    head = LastHead.beside(backups.elsewhere.seal_key_file).read(key)
    assert head is not None
    assert head.last_event == made.last_event


def test_an_artifact_that_was_deleted_before_the_backup_is_named(backups: Backups) -> None:
    backups.artifacts.delete(f"{CHECKPOINT}/weights")
    made = backups.create()
    assert [(each.path, each.deleted) for each in made.missing] == [(CHECKPOINT, False)]
    (text,) = backups.restore(made).missing
    assert CHECKPOINT in text


def test_a_damaged_artifact_is_named_and_not_stored(backups: Backups) -> None:
    backups.artifacts.put(f"{ADAPTER}/weights", b"changed")
    (missing,) = backups.create().missing
    assert not missing.deleted
    assert f"{ADAPTER}/weights differs from its hash" in missing.text


def test_a_changed_event_fails_the_restore(backups: Backups) -> None:
    url = backups.settings.owner_database_url
    changed = backups.settings.model_copy(update={"database_url": url})
    with connect(changed) as store:
        store.execute(
            "UPDATE ecolink_events SET state = convert_to(replace(convert_from(state, 'UTF8'), "
            "'1000000', '9000000'), 'UTF8') WHERE topic = 'CreditGranted'"
        )
    made = backups.create()
    with pytest.raises(BackupError, match="differs from its log"):
        backups.restore(made, keys=read_keys(backups.keys, made.id))


@pytest.mark.full
def test_a_restore_without_the_key_keeps_the_old_seals_as_evidence(backups: Backups) -> None:
    made = backups.create()
    restored = backups.restore(made)
    assert restored.sealed_events == made.events
    assert restored.aside == f"{ASIDE}/{made.id}"
    assert not restored.has_seal_key
    artifacts = Artifacts(backups.elsewhere.artifacts)
    assert artifacts.list("seals") == []
    assert artifacts.list(f"{ASIDE}/{made.id}/seals/heads") != []


def test_a_restore_refuses_a_database_with_events(backups: Backups) -> None:
    made = backups.create()
    with open_log(backups.elsewhere) as log:
        History(log).open_account(1)
    with pytest.raises(BackupError, match="already has"):
        backups.restore(made)


def test_a_restore_refuses_events_of_a_newer_format(
    backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect_to(database.owner_url(backups.settings)) as store:
        store.execute("INSERT INTO event_formats VALUES (%s, '9.0.0', 'test')", [FORMAT + 1])
    with monkeypatch.context() as patch:
        patch.setattr(format_in_use, "FORMAT", FORMAT + 1)
        made = backups.create()
    with pytest.raises(BackupError, match=r"Start EcoLink 9\.0\.0 or later"):
        backups.restore(made)
    assert rows(backups.elsewhere, EVENTS) != rows(backups.settings, EVENTS)


def test_a_restore_refuses_an_artifact_store_with_files(backups: Backups) -> None:
    made = backups.create()
    Artifacts(backups.elsewhere.artifacts).put("jobs/x", b"x")
    with pytest.raises(BackupError, match="ECOLINK_ARTIFACTS_URL"):
        backups.restore(made)


def test_keys_are_never_stored_with_the_backup(backups: Backups, tmp_path: Path) -> None:
    made = backups.create()
    key = backups.settings.seal_key_file.read_bytes()
    assert (backups.keys / made.id / "seal-key.pem").read_bytes() == key
    folder = backups.target.directory
    assert folder is not None
    assert all(key not in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    inside = Backups(
        backups.settings, backups.history, backups.target, folder / "keys", backups.elsewhere
    )
    with pytest.raises(BackupError, match="Store the keys elsewhere"):
        inside.create()


def test_no_backup_has_a_table_of_secrets() -> None:
    secret = {each for each in known_tables() if each.endswith(("_secrets", "_keys", "_tokens"))}
    assert {"webhook_secrets", "hub_tokens"} <= secret
    assert secret - FOLDED <= NEVER


def test_every_table_is_in_a_backup_unless_it_is_ephemeral_or_secret(backups: Backups) -> None:
    found = rows(backups.settings, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    expected = {each["tablename"] for each in found} - {
        "ecolink_events",
        "projection_shapes",
        "leaderships",
        *EPHEMERAL,
        *SECRETS,
    }
    assert {each.table for each in backups.create().tables} == expected


@pytest.mark.full
def test_a_restore_refuses_a_database_of_another_application(backups: Backups) -> None:
    made = backups.create()
    with owner(backups) as store:
        store.execute("CREATE TABLE customers (id int)")
        store.execute("INSERT INTO customers VALUES (1)")
    with pytest.raises(BackupError, match="another application: customers"):
        backups.restore(made)
    with owner(backups) as store:
        assert scalar(store, "SELECT count(*) FROM customers") == 1


@pytest.mark.full
@pytest.mark.parametrize("table", ["web_sessions", "webhook_secrets", "ecolink_snapshots"])
def test_a_manifest_with_a_table_that_no_backup_contains_is_refused(
    backups: Backups, table: str
) -> None:
    made = backups.create()
    planted = made.tables[0].model_copy(update={"table": table})
    changed = made.model_copy(update={"tables": (*made.tables, planted)})
    with pytest.raises(BackupError, match=f"names {table}"):
        backups.restore(changed)


@pytest.mark.full
def test_a_changed_manifest_is_detected_with_the_keys(backups: Backups) -> None:
    made = backups.create()
    keys = read_keys(backups.keys, made.id)
    with pytest.raises(BackupError, match="someone changed it"):
        backups.restore(made.model_copy(update={"tables": made.tables[1:]}), keys=keys)
    backups.restore(made, keys=keys)


@pytest.mark.full
def test_a_manifest_that_lacks_an_artifact_of_its_log_is_refused(backups: Backups) -> None:
    made = backups.create()
    kept = tuple(each for each in made.artifacts if not each.path.startswith(ADAPTER))
    with pytest.raises(BackupError, match=f"lacks 1 artifacts .* such as {ADAPTER}"):
        backups.restore(made.model_copy(update={"artifacts": kept}))


@contextmanager
def owner(backups: Backups) -> Iterator[Connection]:
    """A connection to the empty database as the owner of its tables."""
    url = backups.elsewhere.owner_database_url
    with connect(backups.elsewhere.model_copy(update={"database_url": url})) as store:
        yield store


@pytest.mark.full
def test_a_restore_repeats_an_erasure_that_the_backup_has_only_begun(backups: Backups) -> None:
    account_id = backups.history.account_id
    texts = (
        f"jobs/{account_id}/{UUID(int=5)}/logs/segment-1.log",
        f"datasets/{account_id}/{UUID(int=6)}/report.json",
    )
    for each in texts:
        backups.artifacts.put(each, b"line")
    backups.history.suspend()
    with backups.history.changing_account() as account:
        account.erase()
    backups.seal()
    made = backups.create()
    restored = backups.restore(made, keys=read_keys(backups.keys, made.id))
    assert (restored.missing, restored.erased_later) == ([], [])
    assert rows(backups.settings, "SELECT * FROM profiles") != []
    assert rows(backups.elsewhere, "SELECT * FROM profiles") == []
    assert not any(map(Artifacts(backups.elsewhere.artifacts).exists, texts))


@pytest.mark.full
def test_a_restore_names_the_accounts_that_were_erased_after_the_cut(backups: Backups) -> None:
    last = backups.head
    backups.history.suspend()
    with backups.history.changing_account() as account:
        account.erase()
    restored = backups.restore(backups.create(), moment=Moment(event=last))
    assert restored.erased_later == [backups.history.account_id]
