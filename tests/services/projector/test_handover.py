"""A projector hands over to one of another release after the migration of that release."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from domain.core.event_log import EventLog
from infrastructure.postgres.leadership import Leadership
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from projections import ACCOUNTS, PROJECTIONS
from projections.projection import Projection
from services.projector import handover
from services.projector.handover import Handover
from tests.polling import eventually
from tests.projections.conftest import OtherRelease

NEW = tuple(OtherRelease.of(each) if each is ACCOUNTS else each for each in PROJECTIONS)


class Projector:
    """A projector of a release, with its part in handovers. It looks only when asked."""

    def __init__(self, settings: Settings, release: tuple[Projection, ...]) -> None:
        self.reasons: list[str] = []
        self.handover = Handover(settings, release)
        self._led = Leadership(settings, "projector", self.reasons.append)

    def leads(self) -> None:
        self.handover.lead(self._led)

    def looks(self) -> None:
        self.handover.step()

    @property
    def handed_over(self) -> bool:
        return self.reasons != []


@contextmanager
def projectors(settings: Settings) -> Iterator[tuple[Projector, Projector]]:
    """Yield a leading projector of this release, and a waiting one of the next."""
    old, new = Projector(settings, PROJECTIONS), Projector(settings, NEW)
    old.leads()
    try:
        yield old, new
    finally:
        old.handover.close()
        new.handover.close()


def test_a_projector_hands_over_after_the_migration_of_the_other_release(
    settings: Settings, log: EventLog
) -> None:
    release = OtherRelease(settings, log)
    with projectors(settings) as (old, new):
        for each in (new, old):
            each.looks()
        assert not old.handed_over
        release.rebuild(ACCOUNTS)
        old.looks()
        assert not old.handed_over  # the other one has not noticed the migration
        new.looks()
        old.looks()
        assert old.handed_over
        new.leads()
        new.looks()
        new.looks()
        assert not new.handed_over


def test_a_projector_leads_on_if_no_other_one_suits(settings: Settings, log: EventLog) -> None:
    with projectors(settings) as (old, _):
        OtherRelease(settings, log).rebuild(ACCOUNTS)
        other = Projector(settings, PROJECTIONS)
        for each in (other, old, other, old):
            each.looks()
        other.handover.close()
        assert not old.handed_over


def test_a_projector_that_stopped_waiting_gets_no_lead(settings: Settings, log: EventLog) -> None:
    with projectors(settings) as (old, new):
        OtherRelease(settings, log).rebuild(ACCOUNTS)
        new.looks()
        new.handover.close()
        old.looks()
        assert not old.handed_over


def test_the_way_back(settings: Settings, log: EventLog) -> None:
    release = OtherRelease(settings, log)
    release.rebuild(ACCOUNTS)
    old, new = Projector(settings, PROJECTIONS), Projector(settings, NEW)
    new.leads()
    for each in (old, new):
        each.looks()
    assert not new.handed_over
    release.roll_back(ACCOUNTS)
    for each in (old, new):
        each.looks()
    assert new.handed_over
    for each in (old, new):
        each.handover.close()


def test_a_projector_does_not_compete_with_one_that_suits_better(
    settings: Settings, log: EventLog
) -> None:
    OtherRelease(settings, log).rebuild(ACCOUNTS)
    with projectors(settings) as (_, new):
        new.looks()
        late = Projector(settings, PROJECTIONS)
        waiting = threading.Thread(target=late.handover.wait_turn)
        waiting.start()
        with connect(settings) as connection:
            found = "SELECT FROM pg_stat_activity WHERE application_name = %s "
            found += "AND datname = current_database() AND state = 'idle'"
            name = [handover.SESSION_NAME]
            eventually(lambda: connection.execute(found.encode(), name).rowcount == 2)
        assert waiting.is_alive()
        new.leads()
        new.looks()  # withdraws its offer, because it leads
        waiting.join(timeout=60)
        assert not waiting.is_alive()
        late.handover.close()


def test_a_projector_without_the_tables_of_its_release_may_lead(
    settings: Settings, log: EventLog
) -> None:
    OtherRelease(settings, log).rebuild(ACCOUNTS)
    late = Projector(settings, PROJECTIONS)
    waiting = threading.Thread(target=late.handover.wait_turn, daemon=True)
    waiting.start()
    waiting.join(timeout=60)
    assert not waiting.is_alive()
    late.handover.close()


def test_a_lost_session_is_opened_again(settings: Settings, log: EventLog) -> None:
    release = OtherRelease(settings, log)
    with projectors(settings) as (old, new):
        release.rebuild(ACCOUNTS)
        new.looks()
        keeping = threading.Thread(target=new.handover.keep, daemon=True)
        with connect(
            settings.model_copy(update={"database_url": settings.owner_database_url})
        ) as c:
            c.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                "WHERE application_name = %s AND datname = current_database()",
                [handover.SESSION_NAME],
            )
        keeping.start()

        def handed_over() -> bool:
            try:
                old.looks()
            except Exception:  # noqa: BLE001  # its session was ended, too
                old.handover._session.drop()
            return old.handed_over

        eventually(handed_over)
        new.handover.close()
        keeping.join(timeout=60)
