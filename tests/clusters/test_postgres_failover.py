"""A failover of PostgreSQL to a standby while events are appended."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import OperationalError
from nats.aio.client import Client
from nats.js import JetStreamContext
from psycopg import sql

from deploy.migrate import migrate
from deploy.processes import environment
from domain.access.role import Role
from domain.billing.account import Account
from domain.core.errors import VersionConflict
from domain.core.event_format import FORMAT
from domain.core.event_log import EventLog
from infrastructure.bus.streams import EVENTS, provision
from infrastructure.checks.machine import Level
from infrastructure.checks.standbys import standby_checks
from infrastructure.postgres import event_recorder, format_in_use, presence
from infrastructure.postgres.event_recorder import EventRecorder
from infrastructure.postgres.leadership import Leadership
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.presence import present, running_processes
from infrastructure.postgres.store import connect, open_log, open_pool, scalar
from infrastructure.settings import Settings
from services.projector.handover import Handover, suitable_waits
from services.relay.publisher import FormerPrimary, Publisher
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.clusters.postgres_pair import STANDBY, Node, Pair, postgres_pair
from tests.clusters.writers import Writers
from tests.logs import grow, ids, notifications
from tests.polling import eventually

WRITERS = 4
BEFORE_KILL = (20, 400)
"""Bounds of the number of acknowledged events before the kill."""

AFTER_KILL = 50

Record = Callable[[str, object], None]


def fail_over_mid_load(pair: Pair, seed: int) -> float:
    """Kill the primary mid-load. Return the seconds without an acknowledged event.

    The log must have every acknowledged event, and no aggregate may lack a version.
    """
    before = random.Random(seed).randint(*BEFORE_KILL)
    writers = Writers(pair.settings)
    with writers.running(WRITERS):
        eventually(lambda: len(writers.acknowledged) >= before)
        pair.fail_over()
        after = len(writers.acknowledged) + AFTER_KILL
        eventually(lambda: len(writers.acknowledged) >= after)
    lost = {(e.account_id, e.version) for e in writers.acknowledged} - versions(pair.settings)
    assert lost == set()
    require_gapless(pair.settings)
    return writers.longest_pause()


def versions(settings: Settings) -> set[tuple[object, int]]:
    with open_log(settings) as log:
        return {(each.originator_id, each.originator_version) for each in notifications(log)}


def require_gapless(settings: Settings) -> None:
    """Require that every aggregate of the log has the versions 1, 2, 3 and so on, in order."""
    last: dict[object, int] = {}
    with open_log(settings) as log:
        for each in notifications(log):
            assert each.originator_version == last.get(each.originator_id, 0) + 1
            last[each.originator_id] = each.originator_version


@pytest.mark.full
def test_no_acknowledged_event_is_lost_with_a_synchronous_standby(
    home: Path, record_property: Record
) -> None:
    with postgres_pair(home, synchronous=True) as pair:
        seconds = fail_over_mid_load(pair, seed=0)
        require_fenced(pair)
    record_property("measured", f"PostgreSQL failover: {seconds:.2f} s without a saved event")


def require_fenced(pair: Pair) -> None:
    """Require that the former primary, started again, acknowledges no save."""
    former = pair.only(pair.primary)
    saved: list[bool] = []

    def save() -> None:
        with connect(former) as connection:
            connection.execute("SELECT take_lead('former', 'here', 1)")
            saved.append(True)

    waits = sql.SQL("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    pair.primary.start()
    with ThreadPoolExecutor(1) as thread:
        saving = thread.submit(save)
        eventually(lambda: pair.primary.execute(waits))
        pair.primary.kill()
        with pytest.raises(psycopg.OperationalError):
            saving.result()
    assert saved == []


@pytest.mark.full
@pytest.mark.timeout(900)
def test_five_failovers_lose_no_acknowledged_event_and_never_have_two_leaders(
    home: Path, record_property: Record
) -> None:
    times = []
    for seed in range(1, 6):
        folder = home / str(seed)
        folder.mkdir()
        with (
            postgres_pair(folder, synchronous=True) as pair,
            leaders(pair.settings, folder) as pids,
        ):
            times.append(fail_over_mid_load(pair, seed))
            after = len(written_by(pair.settings, pids))
            eventually(lambda: len(written_by(pair.settings, pids)) > after)  # noqa: B023
            wrote = written_by(pair.settings, pids)
        changes = sum(one != other for one, other in pairwise(wrote))
        assert changes <= 1, "a former leader wrote after its successor"
    text = f"median {statistics.median(times):.2f} s, worst {max(times):.2f} s"
    record_property(
        "measured", f"PostgreSQL, 5 failovers mid-load: time without a saved event, {text}"
    )


@contextmanager
def leaders(settings: Settings, folder: Path) -> Iterator[list[int]]:
    """Run two processes that write while they lead as `test`. Yield their IDs."""
    command = (sys.executable, "-m", "tests.infrastructure.leaders", "test")
    files = [folder / f"leader-{n}" for n in range(2)]
    variables = os.environ | environment(settings)
    processes = [subprocess.Popen([*command, str(file)], env=variables) for file in files]
    try:
        eventually(lambda: any(file.exists() for file in files))
        yield [each.pid for each in processes]
    finally:
        for each in processes:
            each.kill()
            each.wait()


def written_by(settings: Settings, pids: list[int]) -> list[int]:
    """Return the process of each event that one of these leaders wrote, in order of the log."""
    actors = {f'"actor":"leader:{pid}"'.encode(): pid for pid in pids}
    with open_log(settings) as log:
        return [
            pid
            for each in notifications(log)
            for actor, pid in actors.items()
            if actor in each.state
        ]


def test_a_failover_without_the_last_commits_leaves_no_gap(home: Path) -> None:
    """A process with cached aggregates neither continues a lost event nor keeps a lost lead."""
    with postgres_pair(home, synchronous=False) as pair:
        forgotten = Leadership(pair.settings, "test", _raise)
        with (
            open_log(pair.settings, cached=10) as cached,
            open_log(pair.settings, leadership=forgotten) as led,
        ):
            grow(cached, 3)
            pair.detach()
            grow(cached, 3)
            forgotten.take()
            assert cached.load(Account, ACCOUNT_ID).version == 6
            pair.fail_over()
            stale = cached.find(Account, ACCOUNT_ID)
            assert stale is not None
            assert stale.version == 6, "the cache still has the lost events"
            with command("after"):
                stale.grant_credit(1, "after")
                with pytest.raises(VersionConflict):
                    retried(lambda: cached.commit(stale))
                assert cached.load(Account, ACCOUNT_ID).version == 3
                with connect(pair.settings) as connection:
                    epoch = scalar(connection, "SELECT take_lead('test', 'elsewhere', 1)")
                assert epoch == forgotten.epoch, "the new leader has the epoch that was lost"
                with pytest.raises(Ended):
                    retried(lambda: led.commit(Account.open(uuid4(), Role.OWNER, "UTC")))
            grow(cached, 1)
        assert versions_of(pair.settings, ACCOUNT_ID) == [1, 2, 3, 4]


def retried(step: Callable[[], object]) -> object:
    """Run a step until the database is reachable."""
    while True:
        try:
            return step()
        except (OperationalError, psycopg.OperationalError):
            continue


def versions_of(settings: Settings, account_id: UUID) -> list[int]:
    with open_log(settings) as log:
        found = [each for each in notifications(log) if each.originator_id == account_id]
    return [each.originator_version for each in found]


def test_a_connection_that_reaches_a_standby_is_closed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy in front of the servers may keep a connection to a server that is now a standby."""
    with postgres_pair(home, synchronous=True) as pair:
        to_standby = pair.only(pair.standby)
        refused = pytest.raises(psycopg.OperationalError, match="does not accept writes")
        with open_pool(to_standby, max_size=1) as pool:
            with refused, pool.connection() as first:
                first.execute("DELETE FROM parked_events")
            assert first.closed
        with refused, connect(to_standby) as connection:
            connection.execute("LOCK TABLE ecolink_events IN EXCLUSIVE MODE")
        with open_log(pair.settings) as log:
            grow(log, 1)
            monkeypatch.setattr(event_recorder, "SAVE_SECONDS", 0.0)
            pair.primary.set("default_transaction_read_only", "on")
            with pytest.raises(OperationalError, match="does not accept writes"):
                eventually(lambda: grow(log, 1))  # the connection reads the setting a little later
            pair.primary.set("default_transaction_read_only", "off")
            retried(lambda: grow(log, 1))
        pair.fail_over()
        with open_pool(to_standby, max_size=1) as pool, pool.connection() as second:
            second.execute("DELETE FROM parked_events")


@pytest.mark.full
def test_the_doctor_shows_the_primary_and_its_standbys(home: Path) -> None:
    with postgres_pair(home, synchronous=False) as pair:
        old, new = (f"127.0.0.1:{each.port}" for each in (pair.primary, pair.standby))
        (check,) = standby_checks(pair.settings)
        assert check.level is Level.WARNING
        assert f"Primary {old}; standby standby (async, streaming" in check.text
        pair.primary.set("synchronous_standby_names", STANDBY)
        eventually(lambda: pair.replication_state() == "sync")
        (check,) = standby_checks(pair.settings)
        assert check.level is Level.OK
        pair.detach()
        (check,) = standby_checks(pair.settings)
        assert check.level is Level.FAILED
        assert "Saves wait" in check.text
        pair.primary.set("synchronous_standby_names", "")
        pair.fail_over()
        unreachable, found = standby_checks(pair.settings)
        assert f"Cannot connect to {old}" in unreachable.text
        assert f"Primary {new}; no standby" in found.text
        pair.primary.start()
        (check,) = standby_checks(pair.settings)
        assert check.level is Level.FAILED
        assert f"Stop {old}, and make it a standby of {new}" in check.text


def test_the_doctor_omits_standbys_of_a_single_server(settings: Settings) -> None:
    assert list(standby_checks(settings)) == []


class Ended(Exception):
    """Raised instead of ending the process."""


def _raise(reason: str) -> None:
    raise Ended(reason)


@pytest.mark.full
def test_a_frozen_primary_that_resumes_gets_no_save(home: Path, record_property: Record) -> None:
    """The former primary accepts writes again, and is the first server of the URL."""
    with postgres_pair(home, synchronous=False) as pair:
        writers = Writers(pair.settings)
        with open_pool(pair.settings, max_size=2) as pool, writers.running(WRITERS):
            eventually(lambda: len(writers.acknowledged) >= BEFORE_KILL[0])
            with pair.primary.frozen():
                pair.standby.promote()
                promoted = time.monotonic()
                eventually(lambda: acknowledged_since(writers, promoted) >= AFTER_KILL)
            resumed = time.monotonic()
            require_writable(pair.primary)
            eventually(lambda: acknowledged_since(writers, resumed) >= AFTER_KILL)
            for connection in (pool.connection(), connect(pair.settings)):
                with connection as current:
                    assert current.info.port == pair.standby.port
        late = {(e.account_id, e.version) for e in writers.acknowledged if e.at > promoted}
        assert late <= versions(pair.only(pair.standby))
        require_gapless(pair.only(pair.standby))
    seconds = writers.longest_pause()
    record_property("measured", f"frozen primary: {seconds:.2f} s without a saved event")


@pytest.mark.full
def test_sessions_outside_the_pools_leave_a_frozen_primary(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former primary returns with the old format of the log, and is the first of the URL."""
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.2)
    later = FORMAT + 1
    with (
        postgres_pair(home, synchronous=False) as pair,
        open_log(pair.settings) as log,
        present(pair.settings, "gateway"),
        offering(pair.settings),
        connect(as_owner(pair.only(pair.standby))) as standby,
    ):
        with pair.primary.frozen():
            pair.standby.promote()
            standby.execute("DELETE FROM processes")
            eventually(lambda: running_processes(standby))
            eventually(lambda: suitable_waits(standby))
            for module in (format_in_use, presence):
                monkeypatch.setattr(module, "FORMAT", later)
            standby.execute("INSERT INTO event_formats VALUES (%s, '9.0.0', 'test')", [later])
            eventually(lambda: log.format_in_use == later)
        require_writable(pair.primary)
        for _ in range(2):
            standby.execute("DELETE FROM processes")
            eventually(lambda: running_processes(standby))
        assert log.format_in_use == later
        for node in (pair.primary, pair.standby):
            with connect(as_owner(pair.only(node))) as owner:
                owner.execute("DROP FUNCTION process_ended")
        migrate(pair.settings, force=True)
        ended = "SELECT to_regproc('process_ended') IS NOT NULL"
        assert scalar(standby, ended)
        with connect(pair.only(pair.primary)) as former:
            assert not scalar(former, ended)


def as_owner(settings: Settings) -> Settings:
    return settings.model_copy(update={"database_url": settings.owner_database_url})


@contextmanager
def offering(settings: Settings) -> Iterator[None]:
    """Run the thread of a projector that waits to lead."""
    handover = Handover(settings)
    keeping = threading.Thread(target=handover.keep, daemon=True)
    keeping.start()
    try:
        yield
    finally:
        handover.close()
        keeping.join(60)


def acknowledged_since(writers: Writers, moment: float) -> int:
    return sum(each.at > moment for each in writers.acknowledged)


def require_writable(node: Node) -> None:
    node.execute(sql.SQL("CREATE TABLE written ()"), sql.SQL("DROP TABLE written"))


async def test_the_relay_publishes_nothing_of_a_former_primary(
    home: Path, nats: Client, js: JetStreamContext
) -> None:
    await provision(js, ())
    with postgres_pair(home, synchronous=False) as pair:
        former, current = pair.only(pair.primary), pair.only(pair.standby)
        with open_log(former) as old, publisher_of(former, old, nats) as publisher:
            grow(old, 3)
            assert await publisher.publish_new() == len(ids(old))
            pair.detach()
            pair.standby.promote()
            with open_log(current) as new, publisher_of(current, new, nats) as successor:
                grow(new, 2)
                grow(old, 4)  # the new primary never gets them
                assert await successor.publish_new() == 2
                with pytest.raises(FormerPrimary, match="empty-stream"):
                    await publisher.publish_new()
                with publisher_of(former, old, nats) as restarted:
                    with pytest.raises(FormerPrimary):
                        await restarted.publish_new()
                grow(new, 1)
                assert await successor.publish_new() == 1
                assert (await js.stream_info(EVENTS)).state.messages == len(ids(new))


@contextmanager
def publisher_of(settings: Settings, log: EventLog, nats: Client) -> Iterator[Publisher]:
    assert isinstance(log.recorder, EventRecorder)
    with connect(settings) as connection:
        yield Publisher(log, nats, log_identity(connection), log.recorder.select_with_timeline)
