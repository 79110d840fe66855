"""The scheduler process: capacity, launching, supervision."""

from __future__ import annotations

import logging
from asyncio import to_thread
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from functools import partial

from psycopg_pool import ConnectionPool
from pydantic import ValidationError

from domain.catalog.catalog import Catalog
from domain.core.identity import CATALOG_ID
from infrastructure.artifacts import Artifacts
from infrastructure.bus import REPORTS, Durable
from infrastructure.clock import Clock, clock_of
from infrastructure.consumer import (
    PROMPT_BATCH_SECONDS,
    OrderedConsumer,
    subscribe_batches,
)
from infrastructure.leadership import Leadership, leading
from infrastructure.log_identity import watch_log
from infrastructure.reaction import REPLAY_SECONDS, UNREACHABLE, ReactionEffect
from infrastructure.reports import Report
from infrastructure.segment_credentials import required_issuer
from infrastructure.service import Work, broker_of, every, serve
from infrastructure.settings import Settings
from infrastructure.store import Connection, open_log, open_pool
from services.scheduler.capacity import measure_machine, offer_capacity
from services.scheduler.control import ControlChannel
from services.scheduler.handlers import Scheduling
from services.scheduler.launchers import open_launcher
from services.scheduler.launching import LaunchRetries, PodStarter
from services.scheduler.pod_reports import PodReports
from services.scheduler.pod_watch import PodWatch
from services.scheduler.relaunching import Relaunching
from services.scheduler.retention import (
    Retention,
    delete_old_logs,
    delete_security_events,
    trim_caches,
)
from services.scheduler.segments import Segments

REPORTS_DURABLE = Durable("scheduler-reports", REPORTS, "reports.>")

LAUNCH_SECONDS = 0.5
RELAUNCH_SECONDS = 1.0
RETENTION_SECONDS = 10.0
LOGS_SECONDS = 3600.0
TRIM_SECONDS = 600.0
PREPARE_SECONDS = 0.5
CACHED_AGGREGATES = 1000


def run(settings: Settings) -> None:
    """Schedule until SIGTERM, once no other scheduler does.

    Raises RuntimeError without the NATS key of trainers.
    """
    required_issuer(settings)
    with leading(settings, "scheduler") as leadership:
        _schedule(settings, leadership)


def _schedule(settings: Settings, leadership: Leadership) -> None:
    clock, pool = clock_of(settings), open_pool(settings, max_size=4)
    log = open_log(settings, cached=CACHED_AGGREGATES, leadership=leadership)
    broker = broker_of(settings, "scheduler")
    launcher = open_launcher(settings, clock, partial(log.load, Catalog, CATALOG_ID))
    control = ControlChannel(broker)
    artifacts = Artifacts(settings.artifacts)
    segments = Segments(log, clock, artifacts, launcher, control, settings)
    pods = PodStarter(log, launcher, settings)
    scheduling = Scheduling(log, pods, launcher, control, artifacts, settings)
    effect = ReactionEffect("scheduler", log, clock, scheduling.react, pool.connection)
    consumer = OrderedConsumer(effect, log, PROMPT_BATCH_SECONDS)
    launches = LaunchRetries(pods, clock, pool, log)
    relaunching = Relaunching(log, clock, pool, scheduling.claim)
    reports = PodReports(broker, clock, launcher)
    watch = PodWatch(log, pool, launcher, segments, reports, settings)

    async def begin() -> None:
        control.bind()
        await watch.run()

    async def probe() -> None:
        await to_thread(measure_machine, log, clock, launcher)

    offer_capacity(log, clock, launcher)
    consumer.subscribe(broker)
    subscribe_batches(broker, REPORTS_DURABLE, partial(record_all, segments))
    work = [
        partial(watch_log, log),
        _repeated(LAUNCH_SECONDS, launches.launch_due, "launching"),
        _repeated(RELAUNCH_SECONDS, relaunching.claim_due, "relaunching"),
        _repeated(REPLAY_SECONDS, effect.replay_requested, "replay"),
        _repeated(PREPARE_SECONDS, launcher.prepare, "launcher"),
        *_clearing(Retention(log, clock, pool), pool, clock, settings),
    ]
    with closing(launcher):
        serve(broker, [consumer.durable, REPORTS_DURABLE], [begin, probe, *work])


def _clearing(
    retention: Retention, pool: ConnectionPool[Connection], clock: Clock, settings: Settings
) -> list[Work]:
    """What deletes what is kept no longer: adapters, log lines, and files of caches."""
    delete_logs = partial(delete_old_logs, pool, clock, timedelta(days=settings.log_days))
    security = partial(delete_security_events, pool, timedelta(days=settings.security_days))
    return [
        _repeated(LOGS_SECONDS, security, "retention"),
        _repeated(RETENTION_SECONDS, retention.expire_due, "retention"),
        _repeated(LOGS_SECONDS, delete_logs, "retention"),
        _repeated(TRIM_SECONDS, partial(trim_caches, settings), "retention"),
    ]


def _repeated(seconds: float, work: Callable[[], object], logger: str) -> Work:
    """Work that is done every so many seconds."""
    return partial(every, seconds, work, logging.getLogger(logger))


def record_all(segments: Segments, messages: Sequence[object]) -> None:
    """Record reports in order; one that cannot be recorded holds up none behind it."""
    logger = logging.getLogger("reports")
    for message in messages:
        try:
            report = Report.model_validate(message)
        except ValidationError as error:
            logger.warning("dropping a report: %s", error)
            continue
        try:
            segments.record(report)
        except UNREACHABLE:
            raise
        except Exception:  # the next one says it all, and a last one is repeated
            logger.exception("passing over a report of %s", report.subject)
