"""Running jobs in any number, for `make bench-scale`.

One account with its jobs goes through the real aggregates, in memory. The other accounts are copies
of its events with other IDs, so each stream loads as a real one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import psycopg
from eventsourcing.persistence import StoredEvent

from domain.billing.meter import Meter
from domain.capacity.gpu_pool import GpuPool
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.core.identity import NAMESPACE, gpu_pool_id, meter_id
from domain.core.money import MICROS_PER_DOLLAR
from domain.datasets.dataset import Contents, Dataset
from domain.training.token_lengths import TokenLengths
from infrastructure.bus.event_handlers import HANDLERS
from infrastructure.postgres.store import scalar
from services.billing.settlement import MeteredSegment, settle
from tests.builders.examples import PLAN, POLICY
from tests.builders.history import History

BALANCE_MICROS = 10_000 * MICROS_PER_DOLLAR
REGION = "bench"
POOL_ID = gpu_pool_id(REGION, PLAN.gpu_type)
SEGMENT, MINUTE = 1, Meter.MinuteMetered.TOPIC
COLUMNS = "originator_id, originator_version, topic, state"
Connection = psycopg.Connection[dict[str, Any]]


@dataclass(frozen=True)
class Jobs:
    """Running jobs, as many in each account. All hold GPUs of one pool on other hosts."""

    accounts: int
    jobs_of_account: int
    minutes: int  # billed before

    @classmethod
    def of(cls, jobs: int, accounts: int, minutes: int = 0) -> Jobs:
        """Return `accounts` accounts with `jobs` jobs in total, rounded down to equal parts."""
        accounts = min(accounts, jobs)
        return cls(accounts, jobs // accounts, minutes)

    @property
    def count(self) -> int:
        """Number of jobs."""
        return self.accounts * self.jobs_of_account

    @staticmethod
    def account_id(account: int) -> UUID:
        """ID of the n-th account."""
        return uuid5(NAMESPACE, f"bench-account:{account}")

    @staticmethod
    def job_id(account: int, job: int) -> UUID:
        """ID of the n-th job of an account."""
        return uuid5(NAMESPACE, f"bench-job:{account}:{job}")

    def ids(self, account: int) -> list[UUID]:
        """All IDs in the events of an account: its own, its dataset's, its jobs' and meters'."""
        jobs = [self.job_id(account, job) for job in range(self.jobs_of_account)]
        return [
            self.account_id(account),
            uuid5(NAMESPACE, f"bench-dataset:{account}"),
            *jobs,
            *(meter_id(job, SEGMENT) for job in jobs),
        ]

    def stored_events(self) -> Iterator[StoredEvent]:
        """Return the events of the pool and of all accounts in the order of the log."""
        log = EventLog()
        self._record_one(log)
        recorded = log.recorder.select_notifications(start=1, limit=100_000)
        own = [str(each.topic) for each in recorded].index("AccountOpened")
        yield from recorded[:own]
        copied = _Copied(self.ids(0), recorded[own:])
        version = sum(each.originator_id == POOL_ID for each in recorded[:own])
        for account in range(self.accounts):
            events = copied.of(self.ids(account), version)
            version += sum(each.originator_id == POOL_ID for each in events)
            yield from events

    def _record_one(self, log: EventLog) -> None:
        """Record the first account with its jobs, and their minutes, which the ticker billed."""
        account_id, dataset_id, *job_ids = self.ids(0)[: 2 + self.jobs_of_account]
        began = datetime.now(UTC) - timedelta(hours=1)

        def command(command_id: str) -> AbstractContextManager[Cause]:
            return because(Cause("service:bench", command_id, began))

        plan = PLAN.model_copy(update={"dataset_id": dataset_id, "region": REGION})
        first = History(log, account_id, job_ids[0], plan, command)
        first.import_base()
        first.open_pool(self.count)
        first.open_account(BALANCE_MICROS)
        with command("upload"):
            dataset = Dataset.uploaded(dataset_id, account_id, "uploads/a", "a" * 64, 1000)
            dataset.validate(
                plan.dataset_ref, plan.dataset_sha256, Contents(100, 3), "datasets/a/report"
            )
            lengths = TokenLengths.of([40] * 100)
            dataset.record_tokens(plan.base_model, plan.base_manifest_sha256, lengths)
            log.commit(dataset)
        for job_id in job_ids:
            job = History(log, account_id, job_id, plan, command)
            job.approve_job()
            job.allocate_segment(SEGMENT)
            job.grant_lease(SEGMENT)
            job.start_pod(SEGMENT, "bench", began)
            job.start_training(SEGMENT)
        for minute in range(1, self.minutes + 1):
            with command(f"tick {minute}"):
                account = first.account
                meters = [log.load(Meter, meter_id(job_id, SEGMENT)) for job_id in job_ids]
                settle(
                    account, [MeteredSegment(meter, 60 * minute + 1) for meter in meters], POLICY
                )
                log.commit(account, *meters)


class _Copied:
    """The events of an account, to copy for other accounts."""

    def __init__(self, ids: list[UUID], events: Sequence[StoredEvent]) -> None:
        place = {str(each): index for index, each in enumerate(ids)}
        pattern = re.compile("(" + "|".join(place) + ")")
        self._events = [
            (
                place.get(str(each.originator_id)),
                each.originator_version,
                each.topic,
                [place.get(part, part) for part in pattern.split(each.state.decode())],
            )
            for each in events
        ]

    def of(self, ids: list[UUID], pool_version: int) -> list[StoredEvent]:
        """Return the events with other IDs. Those of the pool follow its version."""
        texts, found = [str(each) for each in ids], []
        for place, version, topic, parts in self._events:
            state = "".join(part if isinstance(part, str) else texts[part] for part in parts)
            if place is None:
                pool_version += 1
                found.append(StoredEvent(POOL_ID, pool_version, topic, state.encode()))
            else:
                found.append(StoredEvent(ids[place], version, topic, state.encode()))
        return found


def copy_events(owner: Connection, events: Iterable[StoredEvent]) -> None:
    """Append events by COPY, in one transaction."""
    with owner.transaction(), owner.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # no trigger interferes
        with cursor.copy(f"COPY ecolink_events ({COLUMNS}) FROM STDIN") as rows:
            for each in events:
                rows.write_row(
                    (each.originator_id, each.originator_version, each.topic, each.state)
                )


def settle_down(owner: Connection) -> None:
    """Give the optimizer its statistics, and write all changed pages, as in a long-lived server."""
    owner.execute("VACUUM ANALYZE")
    owner.execute("CHECKPOINT")


def snapshot_pool(log: EventLog) -> None:
    """Take the newest snapshot of the pool that commits of its events would have taken."""
    pool = log.load(GpuPool, POOL_ID)
    every = pool.snapshot_events()
    if every and (version := pool.version // every * every):
        log.take_snapshot(POOL_ID, version)


def open_evidence(owner: Connection, minutes: int) -> None:
    """Store that each running segment has run for this many minutes and a second."""
    owner.execute(
        "INSERT INTO segment_evidence (job_id, segment, elapsed_seconds) "
        "SELECT job_id, segment, %s FROM open_meters",
        [60 * minutes + 1],
    )


def skip_history(owner: Connection) -> None:
    """Store that all event handlers have handled the whole log, which has all their events."""
    with owner.transaction():
        names = list(HANDLERS)
        owner.execute("DELETE FROM ecolink_tracking WHERE application_name = ANY(%s)", [names])
        owner.execute(
            "INSERT INTO ecolink_tracking SELECT name, (SELECT max(notification_id) "
            "FROM ecolink_events) FROM unnest(%s::text[]) AS names (name)",
            [names],
        )


def make_due(owner: Connection, minutes: int) -> None:
    """Store that each running segment has run for this many minutes and a second."""
    owner.execute("UPDATE segment_evidence SET elapsed_seconds = %s", [60 * minutes + 1])


def head(owner: Connection) -> int:
    """Return the position of the newest event."""
    return scalar(owner, "SELECT max(notification_id) FROM ecolink_events")


def events_after(owner: Connection, after: int, topic: str | None = None) -> int:
    """Return the number of events, or of those of a topic, after a position."""
    return scalar(
        owner,
        "SELECT count(*) FROM ecolink_events WHERE notification_id > %s "
        "AND (%s::text IS NULL OR topic = %s)",
        [after, topic, topic],
    )
