"""A long log of accounts with ended jobs, for the benchmark of rebuilds.

One account goes through the real aggregates, in memory. The other accounts are copies of its events
with other IDs. Many accounts are active at a time, so that consecutive events concern many jobs.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from uuid import UUID, uuid4, uuid5

from eventsourcing.persistence import Notification, StoredEvent
from pydantic_core import from_json

from domain.core.event_log import EventLog
from domain.core.identity import NAMESPACE, meter_id
from domain.jobs.job import SegmentEnd
from tests.builders.history import History

ACCOUNT_ID = uuid5(NAMESPACE, "bench-account")
ACTIVE_ACCOUNTS = 100
BALANCE_MICROS = 10**9
MINUTES = 30
"""Billed minutes of a segment."""

SEGMENTS = 2
Save = list[Notification]


def story_events(events: int, active_accounts: int = ACTIVE_ACCOUNTS) -> Iterator[StoredEvent]:
    """Return at least this number of events, in the order of a log that has no events."""
    log = EventLog()
    shared = _record(log)
    recorded = log.recorder.select_notifications(start=1, limit=100_000)
    yield from recorded[:shared]
    account = _Account(recorded[shared:], {each.originator_id for each in recorded[:shared]})
    versions = {each.originator_id: each.originator_version for each in recorded[:shared]}
    count, number, pause = shared, 0, max(1, len(account.saves) // active_accounts)
    active = deque[Iterator[list[StoredEvent]]]()
    for turn in range(10**9):
        if turn % pause == 0 and count < events:
            active.append(account.copied(number))
            number += 1
        if not active:
            return
        for _ in range(len(active)):
            story = active.popleft()
            for each in (save := next(story, [])):
                id, version = each.originator_id, each.originator_version
                if id in versions:
                    versions[id] = version = versions[id] + 1
                yield replace(each, originator_version=version)
            count += len(save)
            if save:
                active.append(story)


class _Account:
    """The saves of an account, to copy for other accounts. `shared` are streams of all accounts."""

    def __init__(self, events: Sequence[Notification], shared: set[UUID | str]) -> None:
        self._ids = [
            each for each in {e.originator_id for e in events} - shared if isinstance(each, UUID)
        ]
        place = {str(each): index for index, each in enumerate(self._ids)}
        self._meters = {
            place[str(meter)]: (place[str(job)], segment)
            for job in self._ids
            for segment in range(1, SEGMENTS + 1)
            if str(meter := meter_id(job, segment)) in place
        }
        pattern = re.compile("(" + "|".join(place) + ")")
        self.saves = [
            [
                (
                    place.get(str(each.originator_id), each.originator_id),
                    each.originator_version,
                    each.topic,
                    [place.get(part, part) for part in pattern.split(each.state.decode())],
                )
                for each in save
            ]
            for _, save in groupby(events, lambda each: from_json(each.state)["command_id"])
        ]

    def copied(self, number: int) -> Iterator[list[StoredEvent]]:
        """Return the saves of the n-th account."""
        ids = [uuid5(NAMESPACE, f"bench:{number}:{place}") for place in range(len(self._ids))]
        for meter, (job, segment) in self._meters.items():
            ids[meter] = meter_id(ids[job], segment)
        texts = [str(each) for each in ids]
        for save in self.saves:
            yield [
                StoredEvent(
                    ids[place] if isinstance(place, int) else place,
                    version,
                    topic,
                    "".join(
                        part if isinstance(part, str) else texts[part] for part in parts
                    ).encode(),
                )
                for place, version, topic, parts in save
            ]


def _record(log: EventLog) -> int:
    """Record a platform and one account with four jobs. Return the events of the platform."""
    first = History(log, ACCOUNT_ID, uuid4())
    first.import_base()
    first.deploy_base()
    first.open_pool(10 * ACTIVE_ACCOUNTS)
    shared = log.recorder.max_notification_id() or 0
    first.open_account(BALANCE_MICROS)
    first.issue_key()
    first.prepare_dataset()
    first.pay_by_card()
    _start(first, 1)
    _train(first, 1)
    first.complete(1)
    first.end_segment(1, SegmentEnd.COMPLETED, 60 * MINUTES + 10)
    crashed = first.another_job()
    _start(crashed, 1)
    _train(crashed, 1)
    crashed.end_segment(1, SegmentEnd.CRASHED, 60 * MINUTES + 10, error_class="ProcessLost")
    _start(crashed, 2, step=MINUTES)
    _train(crashed, 2)
    crashed.undeploy(crashed.deploy_checkpoint(MINUTES))
    crashed.complete(2)
    crashed.end_segment(2, SegmentEnd.COMPLETED, 60 * MINUTES + 10)
    paused = first.another_job()
    _start(paused, 1)
    _train(paused, 1)
    paused.pause()
    paused.end_segment(1, SegmentEnd.STOPPED, 60 * MINUTES + 10)
    paused.resume()
    _start(paused, 2, step=MINUTES)
    paused.cancel()
    paused.end_segment(2, SegmentEnd.STOPPED, 30)
    return shared


def _start(job: History, segment: int, step: int = 0) -> None:
    if segment == 1:
        job.approve_job(queued=False)
    job.allocate_segment(segment)
    job.grant_lease(segment)
    job.start_pod(segment)
    job.start_training(segment, step, total_steps=2 * MINUTES)


def _train(job: History, segment: int) -> None:
    """Bill minutes, extend the lease in time, and save and prune a checkpoint in some of them."""
    for minute in range(1, MINUTES + 1):
        if minute % 4 == 0:
            job.extend_lease(segment, 300)
        job.bill(segment, 60 * minute)
        if minute % 10 == 0:
            job.save_checkpoint(segment, (segment - 1) * MINUTES + minute, 60 * minute)
