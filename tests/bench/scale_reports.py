"""Reports of trainers: how many the bus, billing and the scheduler take, and its pod polls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from domain.training.phases import Phase
from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import EVENTS, REPORTS
from infrastructure.settings import Settings
from infrastructure.training.reports import Report
from tests.bench.scale_jobs import SEGMENT, Connection, Jobs, skip_history
from tests.bench.scale_processes import CpuShare, Process, memory_mib

PROCESSES = ("billing", "scheduler")
CONSUMERS = {"billing": "billing-evidence", "scheduler": "scheduler-reports"}
POLL = f"$JS.API.STREAM.MSG.GET.{REPORTS}"
"""Subject to which the scheduler sends a request for each pod of another host, at each poll."""

MOST_TRAINERS, ROUNDS = 1_000, 10
START_SECONDS, DRAIN_SECONDS, POLL_SECONDS, SAMPLE_SECONDS = 180.0, 300.0, 5.0, 0.1


@dataclass
class Reports:
    """Reports per second that each process takes, and pods per second that the scheduler polls."""

    trainers: int
    bus: float
    billing: float
    scheduler: float
    polls: float
    cpu_ms: dict[str, float]  # of a report, by process
    memory_mib: dict[str, float]


def measure_reports(settings: Settings, owner: Connection, jobs: Jobs, folder: Path) -> Reports:
    """Send the reports of many trainers at once, and wait until both processes took all of them.

    All pods run on another host, so the scheduler polls each of them over the bus.
    """
    skip_history(owner)
    return asyncio.run(_measure(settings, jobs, folder))


async def _measure(settings: Settings, jobs: Jobs, folder: Path) -> Reports:
    client = await broker_of(settings, "bench").connect()
    processes = [Process.of_platform(settings, name, folder) for name in PROCESSES]
    try:
        js = client.jetstream()
        await js.purge_stream(EVENTS, keep=1)
        await js.purge_stream(REPORTS)
        trainers = min(MOST_TRAINERS, jobs.count)
        await _take(client, js, processes, list(_reports(jobs, trainers, 1)))
        polls = await _polls(client)
        messages = [each for n in range(ROUNDS) for each in _reports(jobs, trainers, 2 + n)]
        shares = {each.name: CpuShare([each.process]) for each in processes}
        taken = await _take(client, js, processes, messages)
        cpu_ms = {name: 1000 * each.seconds / len(messages) for name, each in shares.items()}
        memory = {each.name: memory_mib([each.process]) for each in processes}
    finally:
        for each in processes:
            each.stop()
        await client.close()
    speeds = {name: len(messages) / seconds for name, seconds in taken.items()}
    return Reports(
        trainers=trainers,
        bus=speeds["bus"],
        billing=speeds["billing"],
        scheduler=speeds["scheduler"],
        polls=polls,
        cpu_ms=cpu_ms,
        memory_mib=memory,
    )


def _reports(jobs: Jobs, trainers: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Return the subject and content of the n-th report of each trainer."""
    now = datetime.now(UTC)
    for number in range(trainers):
        account, job = divmod(number, jobs.jobs_of_account)
        report = Report(
            account_id=jobs.account_id(account),
            job_id=jobs.job_id(account, job),
            segment=SEGMENT,
            n=n,
            sent_at=now,
            elapsed_seconds=n,
            phase=Phase.TRAINING,
            first_step_seconds=0.5,
            step=n,
            total_steps=30,
            train_examples=95,
            eval_examples=5,
        )
        yield report.subject, report.model_dump_json().encode()


async def _take(
    client: Client,
    js: JetStreamContext,
    processes: list[Process],
    messages: list[tuple[str, bytes]],
) -> dict[str, float]:
    """Send messages. Return the seconds until the bus and each process have all of them."""
    stored = (await js.stream_info(REPORTS)).state.last_seq + len(messages)
    began = time.perf_counter()
    for subject, content in messages:
        await client.publish(subject, content)
    await client.flush(60)
    taken: dict[str, float] = {}
    while len(taken) < 1 + len(CONSUMERS):
        if time.perf_counter() - began > DRAIN_SECONDS + START_SECONDS:
            raise RuntimeError("The reports were not taken. See the logs of the processes.")
        for each in processes:
            each.require_running()
        if "bus" not in taken and (await js.stream_info(REPORTS)).state.last_seq >= stored:
            taken["bus"] = time.perf_counter() - began
        for name, durable in CONSUMERS.items():
            with suppress(NotFoundError):  # until the process has started
                info = await js.consumer_info(REPORTS, durable)
                idle = info.num_pending == info.num_ack_pending == 0
                if idle and "bus" in taken and name not in taken:
                    taken[name] = time.perf_counter() - began
        await asyncio.sleep(SAMPLE_SECONDS)
    return taken


async def _polls(client: Client) -> float:
    """Return the number of pods that the scheduler polls per second."""
    polls = 0

    async def count(_: object) -> None:
        nonlocal polls
        polls += 1

    subscription = await client.subscribe(POLL, cb=count)
    await asyncio.sleep(1)
    polls, began = 0, time.perf_counter()
    await asyncio.sleep(POLL_SECONDS)
    found = polls / (time.perf_counter() - began)
    await subscription.unsubscribe()
    return found
