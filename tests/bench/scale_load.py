"""A minute of all jobs in the running platform: the lag of each consumer, and the job page."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import quantiles

import httpx
from nats.js import JetStreamContext

from deploy.local.ports import free_port
from gateway.http.sessions import COOKIE
from gateway.schemas import job_name
from infrastructure.accounts.sessions import begin_session
from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import EVENTS
from infrastructure.postgres.store import connect, scalar
from infrastructure.settings import Settings
from projections import PROJECTIONS
from projections.billing_ledger import BILLING_LEDGER
from projections.projection import consumer_name
from tests.bench.scale_jobs import (
    MINUTE,
    Connection,
    Jobs,
    events_after,
    head,
    make_due,
    skip_history,
)
from tests.bench.scale_processes import CpuShare, Process, Servers, memory_mib

PLATFORM = ("relay", "sealer", "projector", "billing", "datasets", "webhooks", "alerts", "gateway")
"""Processes that run. The scheduler follows in `scale_reports`; serving does nothing for a job."""

START_SECONDS, IDLE_SECONDS, SAMPLE_SECONDS = 600.0, 20.0, 0.5
REQUESTS_PER_SECOND = 10

POSITIONS = """
SELECT 'projection-' || name AS consumer, position FROM projection_positions
UNION ALL
SELECT application_name, max(notification_id) FROM ecolink_tracking GROUP BY application_name
"""

SIZES = """
SELECT relname AS name, pg_total_relation_size(oid) AS bytes FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
"""


@dataclass
class Lag:
    """Events that a consumer had not processed."""

    most: int = 0
    seconds: float | None = None  # from the due minute until it had caught up; None: it had not


@dataclass
class Load:
    """Measurements of a minute."""

    events: int = 0
    billed_seconds: float | None = None
    lags: dict[str, Lag] = field(default_factory=dict)
    idle_pages: list[float] = field(default_factory=list)  # seconds of each request
    busy_pages: list[float] = field(default_factory=list)
    bytes_of_minute: dict[str, float] = field(default_factory=dict)  # stored for a job-minute
    cores: dict[str, float] = field(default_factory=dict)  # by process, until all have caught up
    cpu_ms: dict[str, float] = field(default_factory=dict)  # of a job-minute, by process
    memory_mib: dict[str, float] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """True if all consumers have caught up with the billed minute."""
        return bool(self.lags) and all(each.seconds is not None for each in self.lags.values())

    @property
    def caught_up_seconds(self) -> float:
        """Seconds until all consumers had caught up; infinite if one had not."""
        found = [math.inf if each.seconds is None else each.seconds for each in self.lags.values()]
        return max(found, default=math.inf)


def p99(seconds: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return quantiles(seconds, n=100, method="inclusive")[98]


def measure_load(settings: Settings, owner: Connection, jobs: Jobs, folder: Path) -> Load:
    """Run the platform, let a minute of all jobs be due, and wait until all have caught up.

    The wait ends after 60 s and a second for each 50 jobs.
    """
    port = free_port(0)
    running = settings.model_copy(
        update={
            "gateway_port": port,
            "gateway_url": f"http://127.0.0.1:{port}",
            "limits": {"address_requests": 1_000_000, "requests": 1_000_000},
        }
    )
    skip_history(owner)
    return asyncio.run(_measure(running, owner, jobs, folder))


async def _measure(settings: Settings, owner: Connection, jobs: Jobs, folder: Path) -> Load:
    client = await broker_of(settings, "bench").connect()
    try:
        js = client.jetstream()
        await js.purge_stream(EVENTS, keep=1)  # so that no consumer has to skip old messages
        with _platform(settings, folder) as processes:
            seals = Path(settings.artifacts.removeprefix("file://")) / "seals"
            async with _session(settings, jobs) as pages:
                await _wait_ready(pages, processes)
                return await _Minute(js, owner, jobs, processes, pages, seals).run()
    finally:
        await client.close()


@contextmanager
def _platform(settings: Settings, folder: Path) -> Iterator[dict[str, Process]]:
    processes: dict[str, Process] = {}
    try:
        for name in PLATFORM:
            processes[name] = Process.of_platform(settings, name, folder)
        yield processes
    finally:
        for each in processes.values():
            each.stop()


def _session(settings: Settings, jobs: Jobs) -> httpx.AsyncClient:
    """Return a client that is signed in to the first account."""
    with connect(settings) as connection:
        key_id = scalar(
            connection,
            "SELECT key_id FROM api_keys WHERE account_id = %s LIMIT 1",
            [jobs.account_id(0)],
        )
        token = begin_session(connection, key_id)
    return httpx.AsyncClient(
        base_url=str(settings.gateway_url), cookies={COOKIE: token}, timeout=60
    )


async def _wait_ready(pages: httpx.AsyncClient, processes: Mapping[str, Process]) -> None:
    """Wait until the gateway responds and the sealer, which has to seal the whole log, is idle."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for each in processes.values():
            each.require_running()
        sealer = CpuShare([processes["sealer"].process])
        await asyncio.sleep(1.0)
        try:
            if (await pages.get("/healthz")).is_success and sealer.cores < 0.3:
                return
        except httpx.TransportError:
            pass
    raise RuntimeError("The platform did not start.")


@dataclass
class _Minute:
    js: JetStreamContext
    owner: Connection
    jobs: Jobs
    processes: Mapping[str, Process]
    pages: httpx.AsyncClient
    seals: Path

    async def run(self) -> Load:
        load, chance = Load(), Random(1)
        for _ in range(2):  # the first pages compile templates
            await self._get(chance)
        load.idle_pages = await self._request_until(asyncio.sleep(IDLE_SECONDS))
        servers = Servers(self.owner)
        groups = {name: [each.process] for name, each in self.processes.items()}
        groups |= {"PostgreSQL": servers.postgres, "NATS": servers.nats}
        before = await self._stored()
        shares = {name: CpuShare(group) for name, group in groups.items()}
        load.busy_pages = await self._request_until(self._follow(load))
        load.cores = {name: share.cores for name, share in shares.items()}
        load.cpu_ms = {
            name: 1000 * share.seconds / self.jobs.count for name, share in shares.items()
        }
        load.memory_mib = {name: memory_mib(group) for name, group in groups.items()}
        for name, size in (await self._stored()).items():
            load.bytes_of_minute[name] = (size - before[name]) / self.jobs.count
        return load

    async def _stored(self) -> dict[str, int]:
        """Return the bytes of tables with their indexes, the stream and the files of seals."""
        rows = await asyncio.to_thread(lambda: self.owner.execute(SIZES).fetchall())
        sizes = {row["name"]: row["bytes"] for row in rows}
        read_models = [table for each in PROJECTIONS for table in each.tables]
        seals = [each.stat().st_size for each in self.seals.rglob("*") if each.is_file()]
        return {
            "events": sizes["ecolink_events"],
            "ledger": sum(sizes[table] for table in BILLING_LEDGER.tables),
            "other read models": sum(
                sizes[table] for table in read_models if table not in BILLING_LEDGER.tables
            ),
            "stream": (await self.js.stream_info(EVENTS)).state.bytes,
            "seals": sum(seals),
        }

    async def _request_until(self, end: Awaitable[None]) -> list[float]:
        """Request job pages at a constant rate. Return the seconds from each due time.

        A request does not wait for the one before it, so a page that hangs delays no request.
        """
        chance, requests = Random(2), list[asyncio.Task[float]]()
        ended = asyncio.ensure_future(end)
        while not ended.done():
            requests.append(asyncio.create_task(self._get(chance)))
            await asyncio.wait([ended], timeout=1 / REQUESTS_PER_SECOND)
        ended.result()
        return list(await asyncio.gather(*requests))

    async def _get(self, chance: Random) -> float:
        job = chance.randrange(self.jobs.jobs_of_account)
        began = time.perf_counter()
        page = await self.pages.get(f"/fine-tune/{job_name(self.jobs.job_id(0, job))}")
        page.raise_for_status()
        return time.perf_counter() - began

    async def _follow(self, load: Load) -> None:
        """Let the minute be due, and sample the lag of all consumers until they have caught up."""
        before = await asyncio.to_thread(head, self.owner)
        published = (await self.js.stream_info(EVENTS)).state.last_seq
        await asyncio.to_thread(make_due, self.owner, self.jobs.minutes + 1)
        began = time.perf_counter()
        end = began + 60 + self.jobs.count / 50
        while time.perf_counter() < end and not load.done:
            for each in self.processes.values():
                each.require_running()
            newest, billed, positions = await asyncio.to_thread(_progress, self.owner, before)
            relayed = (await self.js.stream_info(EVENTS)).state.last_seq - published
            seconds = time.perf_counter() - began
            if billed >= self.jobs.count and load.billed_seconds is None:
                load.billed_seconds = seconds
                load.events = await asyncio.to_thread(events_after, self.owner, before)
            behind = {name: max(0, newest - each) for name, each in positions.items()}
            behind["relay"] = max(0, newest - before - relayed)
            for name, events in behind.items():
                lag = load.lags.setdefault(name, Lag())
                lag.most = max(lag.most, events)
                if load.billed_seconds is not None and events == 0 and lag.seconds is None:
                    lag.seconds = seconds
            await asyncio.sleep(SAMPLE_SECONDS)


def _progress(owner: Connection, before: int) -> tuple[int, int, dict[str, int]]:
    """Return the end of the log, the minutes billed after `before`, and all positions."""
    rows = owner.execute(POSITIONS).fetchall()
    consumers = {*PLATFORM, *map(consumer_name, PROJECTIONS)}
    positions = {row["consumer"]: row["position"] for row in rows if row["consumer"] in consumers}
    billed = events_after(owner, before, MINUTE)
    return head(owner), billed, positions
