"""The scheduler process, with GPU queues, launches, pods and retention."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from functools import partial

from pydantic import ValidationError

from domain.catalog.catalog import Catalog
from domain.core.identity import CATALOG_ID
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.consumer import UNREACHABLE, OrderedConsumer, subscribe_batches
from infrastructure.bus.event_handlers import REPLAY_SECONDS, EventHandlers, HandlerEffect
from infrastructure.bus.exchange import read
from infrastructure.bus.service import after, broker_of, every, serve
from infrastructure.bus.streams import REPORTS, Durable
from infrastructure.bus.tls import nats_authority, tls_context
from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.log_identity import watch_log
from infrastructure.postgres.store import open_log, open_pool
from infrastructure.process.clock import clock_of
from infrastructure.settings import Settings
from infrastructure.training.reports import Report
from infrastructure.training.segment_credentials import required_issuer
from infrastructure.training.store_credentials import StoreIssuer, required_store_issuer
from services.scheduler.capacity import measure_machine, offer_capacity
from services.scheduler.control import ControlChannel
from services.scheduler.due import claim_due, continuing_jobs, expire_due, pause_suspended
from services.scheduler.erasing import erasing
from services.scheduler.handlers import Scheduling
from services.scheduler.launchers.registry import open_launcher
from services.scheduler.launching import LaunchRetries, PodStarter
from services.scheduler.pod_reports import PodReports
from services.scheduler.pod_watch import PodWatch
from services.scheduler.retention import delete_old_logs, delete_security_events, trim_caches
from services.scheduler.segments import Segments
from services.scheduler.store_renewal import StoreRenewals

REPORTS_DURABLE = Durable("scheduler-reports", REPORTS, "reports.>")

QUIET_SECONDS = 5.0
"""Seconds for which a starting scheduler measures nothing and starts no warm trainer.

The other processes start at the same time. They would distort the measurement, and wait longer.
"""
LAUNCH_SECONDS, IDLE_SECONDS = 0.5, 2.0
CAPACITY_SECONDS = 60.0
RELAUNCH_SECONDS = 1.0
SUSPEND_SECONDS = 1.0
RETENTION_SECONDS = 10.0
LOGS_SECONDS = 3600.0
TRIM_SECONDS = 600.0
PREPARE_SECONDS = 0.5
RENEWAL_SECONDS = 10.0
CACHED_AGGREGATES = 1000


def run(settings: Settings) -> None:
    """Schedule until SIGTERM, as the only scheduler. Raise RuntimeError for invalid settings."""
    required_issuer(settings)
    if settings.trainer_nats_url is not None:
        tls_context(settings.trainer_nats_url, nats_authority(settings))
    required_store_issuer(settings)
    with leading(settings, "scheduler") as leadership:
        _schedule(settings, leadership)


def _schedule(settings: Settings, leadership: Leadership) -> None:
    clock, pool = clock_of(settings), open_pool(settings, max_size=4)
    cached, led = CACHED_AGGREGATES, leadership
    log = open_log(settings, pool=pool, cached=cached, takes_snapshots=True, leadership=led)
    broker = broker_of(settings, "scheduler")
    launcher = open_launcher(settings, clock, partial(log.load, Catalog, CATALOG_ID))
    control = ControlChannel(broker)
    artifacts = Artifacts(settings.artifacts)
    segments = Segments(log, clock, artifacts, launcher, control, settings)
    pods = PodStarter(log, launcher, settings)
    continuing = partial(continuing_jobs, pool)
    scheduling = Scheduling(log, pods, control, artifacts, settings, continuing)
    handlers = EventHandlers({**scheduling.handlers, **erasing(pool, artifacts)})
    effect = HandlerEffect("scheduler", log, clock, handlers, pool.connection)
    consumer = OrderedConsumer(effect, log)
    launches = LaunchRetries(pods, clock, pool, log, settings.launch_retry_seconds)
    reports = PodReports(broker, clock, launcher)
    watch = PodWatch(log, pool, launcher, segments, reports, settings)

    async def begin() -> None:
        control.bind()
        await watch.run()

    offer_capacity(log, clock, launcher)
    consumer.subscribe(broker)
    subscribe_batches(broker, REPORTS_DURABLE, partial(record_all, segments))
    kept_logs = timedelta(days=settings.log_retention_days)
    kept_security = timedelta(days=settings.security_event_retention_days)
    work = [
        begin,
        after(QUIET_SECONDS, partial(measure_machine, log, clock, launcher)),
        partial(watch_log, log),
        every(LAUNCH_SECONDS, launches.launch_due, "launching", IDLE_SECONDS),
        every(RELAUNCH_SECONDS, partial(claim_due, log, clock, pool, scheduling.claim), "due"),
        every(SUSPEND_SECONDS, partial(pause_suspended, log, clock, pool), "due", IDLE_SECONDS),
        every(REPLAY_SECONDS, effect.replay_requested, "replay"),
        after(QUIET_SECONDS, every(PREPARE_SECONDS, launcher.prepare, "launcher")),
        every(CAPACITY_SECONDS, partial(offer_capacity, log, clock, launcher), "launcher"),
        every(RETENTION_SECONDS, partial(expire_due, log, clock, pool), "due"),
        every(LOGS_SECONDS, partial(delete_old_logs, pool, clock, kept_logs), "retention"),
        every(LOGS_SECONDS, partial(delete_security_events, pool, kept_security), "retention"),
        every(TRIM_SECONDS, partial(trim_caches, settings), "retention"),
    ]
    if (issuer := StoreIssuer.of(settings)) is not None:
        renewals = StoreRenewals(log, control, issuer)
        work.append(every(RENEWAL_SECONDS, renewals.renew_due, "store keys"))
    with closing(launcher):
        serve(broker, [consumer.durable, REPORTS_DURABLE], work)


def record_all(segments: Segments, messages: Sequence[object]) -> None:
    """Record reports in order. Log and skip reports that cannot be recorded.

    Skipping loses nothing, because reports are cumulative and a trainer repeats its final report
    until the scheduler acknowledges it.
    """
    logger = logging.getLogger("reports")
    for message in messages:
        try:
            report = read(Report, message)
        except ValidationError as error:
            logger.warning("dropping an invalid report: %s", error)
            continue
        try:
            segments.record(report)
        except UNREACHABLE:
            raise
        except Exception:
            logger.exception("skipping a report of %s", report.subject)
