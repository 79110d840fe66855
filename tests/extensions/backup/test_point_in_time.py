"""A log is restored as of an event or a time, and everything later is cut."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from domain.billing.account import Account
from domain.core.aggregate import Cause, because
from extensions.backup.keys import read_keys
from extensions.backup.point_in_time import Moment
from extensions.backup.restoring import ASIDE, Restored
from extensions.backup.target import BackupError
from infrastructure.accounts.profiles import add_account_name
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import connect, scalar
from infrastructure.seals.archive import LastHead, SealArchive, load_key, origin_of
from infrastructure.settings import Settings
from services.sealer.sealer import Sealer
from services.sealer.verification import Trust, verify_seals
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import History
from tests.extensions.backup.conftest import ADAPTER, Backups

CONSUMER = "billing"
POSITION = "SELECT notification_id FROM ecolink_tracking WHERE application_name = %s"


def restore(backups: Backups, moment: Moment) -> Restored:
    made = backups.create()
    return backups.restore(made, moment=moment, keys=read_keys(backups.keys, made.id))


def id_of(backups: Backups, topic: str) -> int:
    """Return the notification ID of the first event of a topic."""
    found = backups.history.log.recorder.select_notifications(start=1, limit=1, topics=[topic])
    return found[0].id


def react(backups: Backups, to: int) -> int:
    """Record a reaction of a consumer to an event, with its position. Return its ID."""
    log = backups.history.log
    with because(Cause(f"service:{CONSUMER}", f"{CONSUMER}:{to}", datetime.now(UTC))):
        account = log.load(Account, ACCOUNT_ID)
        account.grant_credit(1, f"reaction to {to}")
        log.commit(account)
    handled(backups, to)
    return backups.head


def handled(backups: Backups, position: int) -> None:
    with connect(backups.settings) as store:
        store.execute(
            "INSERT INTO ecolink_tracking VALUES (%s, %s) ON CONFLICT (application_name) DO UPDATE "
            "SET notification_id = greatest(ecolink_tracking.notification_id, %s)",
            [CONSUMER, position, position],
        )


def test_a_log_is_cut_after_an_event_with_its_seals(backups: Backups) -> None:
    with connect(backups.settings) as store:
        sealed = scalar(store, "SELECT count(*) FROM ecolink_events")
    last = backups.head
    later = History(backups.history.log, UUID(int=50))
    later.open_account(5)
    with connect(backups.settings) as store:
        add_account_name(store, later.account_id, "later")
    backups.seal()
    made = backups.create()
    History(backups.history.log, UUID(int=51)).open_account(5)
    keys = read_keys(backups.keys, made.id)
    restored = backups.restore(made, keys=keys, moment=Moment(event=last))
    assert (restored.last_event, restored.sealed_events) == (last, sealed)
    artifacts = Artifacts(backups.elsewhere.artifacts)
    assert restored.aside is not None
    assert restored.aside.startswith(ASIDE)
    assert artifacts.list(f"{restored.aside}/seals/heads") != []
    with connect(backups.elsewhere) as store:
        assert scalar(store, "SELECT string_agg(name, ',') FROM profiles") == "alice"
        assert scalar(store, "SELECT nextval('ecolink_events_notification_id_seq')") > backups.head
    _continue_sealing(backups.elsewhere)


def _continue_sealing(settings: Settings) -> None:
    """Add an event, seal it, and verify the seals of the whole log."""
    with connect(settings) as store:
        store.execute(
            "INSERT INTO ecolink_events SELECT gen_random_uuid(), 1, topic, state FROM "
            "ecolink_events LIMIT 1"
        )
        key = load_key(settings.seal_key_file)
        archive = SealArchive(Artifacts(settings.artifacts))
        sealer = Sealer(archive, origin_of(log_identity(store)), key, lambda: datetime.now(UTC))
        sealer.last_head = LastHead.beside(settings.seal_key_file)
        sealer.resume(store)
        sealer.step(store)
        sealer.export()
        findings = verify_seals(store, archive, Trust(sealer.log_key))
        assert findings.counts == {}
        assert findings.unsealed == 0


def test_a_cut_includes_the_whole_save_and_trims_the_evidence(backups: Backups) -> None:
    first = id_of(backups, "MinuteMetered")
    restored = restore(backups, Moment(event=first))  # the first of four in one save
    assert (restored.last_event, restored.sealed_events) == (first + 3, restored.events)
    with connect(backups.elsewhere) as store:
        assert scalar(store, "SELECT elapsed_seconds FROM segment_evidence") == 240
    refs = Artifacts(backups.elsewhere.artifacts).list("")
    assert not any(ref.startswith(ADAPTER) for ref in refs)


def test_a_log_is_cut_at_a_time(backups: Backups) -> None:
    last, later = backups.head, datetime.now(UTC) + timedelta(days=1)
    with because(Cause("operator:host", "later", later)):
        account = backups.history.account
        account.grant_credit(1, "later")
        backups.history.log.commit(account)
    assert restore(backups, Moment(time=later - timedelta(seconds=1))).last_event == last


def test_a_consumer_handles_an_event_again_if_its_reaction_was_cut(backups: Backups) -> None:
    cause = backups.head
    react(backups, cause - 1)
    last = backups.head
    react(backups, cause)  # cut
    handled(backups, last)
    restore(backups, Moment(event=last))
    with connect(backups.elsewhere) as store:
        assert scalar(store, POSITION, [CONSUMER]) == cause - 1
        assert scalar(store, "SELECT count(*) FROM parked_events") == 0


@pytest.mark.full
def test_a_parked_event_that_was_replayed_later_is_parked_again(backups: Backups) -> None:
    parked, cause = backups.head - 1, backups.head
    react(backups, cause)
    last = backups.head
    react(backups, parked)  # cut
    restore(backups, Moment(event=last))
    with connect(backups.elsewhere) as store:
        assert scalar(store, POSITION, [CONSUMER]) == cause
        rows = store.execute("SELECT notification_id, replay FROM parked_events").fetchall()
    assert rows == [{"notification_id": parked, "replay": True}]


def test_an_event_that_the_backup_does_not_have_is_refused(backups: Backups) -> None:
    last = backups.head
    with pytest.raises(BackupError, match=f"Its last event is {last:,}"):
        restore(backups, Moment(event=last + 1))
    with connect(backups.elsewhere) as store:
        assert scalar(store, "SELECT count(DISTINCT originator_id) FROM ecolink_events") == 1


def test_a_time_before_the_log_is_refused(backups: Backups) -> None:
    with pytest.raises(BackupError, match="begins after"):
        restore(backups, Moment(time=datetime(2020, 1, 1, tzinfo=UTC)))
