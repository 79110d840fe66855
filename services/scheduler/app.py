"""The scheduler process: capacity, launching, supervision."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from domain.aggregate import Cause, because
from domain.event_log import EventLog
from domain.gpu_pool import GpuPool
from domain.identity import gpu_pool_id
from infrastructure.artifacts import Artifacts
from infrastructure.bus import REPORTS, Durable
from infrastructure.clock import Clock, SystemClock
from infrastructure.consumer import OrderedConsumer, subscribe_batches
from infrastructure.reaction import REPLAY_SECONDS, ReactionEffect
from infrastructure.reports import Report
from infrastructure.service import broker_of, every, serve
from infrastructure.settings import Settings
from infrastructure.store import open_log, open_pool
from services.scheduler.control import ControlChannel
from services.scheduler.handlers import Scheduling
from services.scheduler.launchers import LAUNCHERS
from services.scheduler.launchers.launcher import Launcher
from services.scheduler.pod_watch import PodWatch
from services.scheduler.segments import Segments
from services.scheduler.waiting_jobs import WaitingJobs

REPORTS_DURABLE = Durable("scheduler-reports", REPORTS, "reports.>")

CLAIM_SECONDS = 2.0
CACHED_AGGREGATES = 1000


def run(settings: Settings) -> None:
    """Schedule until SIGTERM."""
    clock = SystemClock()
    log, pool = open_log(settings, cached=CACHED_AGGREGATES), open_pool(settings, max_size=4)
    broker = broker_of(settings, "scheduler")
    launcher = LAUNCHERS["local"](settings, clock)
    control = ControlChannel(broker)
    segments = Segments(log, clock, Artifacts(settings.artifacts), launcher, control)
    scheduling = Scheduling(log, launcher, control, settings)
    effect = ReactionEffect("scheduler", log, clock, scheduling.react, pool.connection)
    consumer = OrderedConsumer(effect, log)
    waiting = WaitingJobs(log, clock, pool, scheduling)
    watch = PodWatch(log, clock, broker, pool, launcher, segments, settings)

    async def begin() -> None:
        control.bind()
        await watch.run()

    offer_capacity(log, clock, launcher)
    consumer.subscribe(broker)
    subscribe_batches(broker, REPORTS_DURABLE, partial(_record_all, segments))
    replay = partial(every, REPLAY_SECONDS, effect.replay_requested, logging.getLogger("replay"))
    claim = partial(every, CLAIM_SECONDS, waiting.claim_all, logging.getLogger("waiting"))
    serve(broker, [consumer.durable, REPORTS_DURABLE], [begin, claim, replay])


def offer_capacity(log: EventLog, clock: Clock, launcher: Launcher) -> None:
    """Make the pools' capacity what the launcher has."""
    for (region, gpu_type), capacity in launcher.capacity().items():

        def attempt(region: str = region, gpu_type: str = gpu_type, count: int = capacity) -> None:
            command_id = f"capacity:{region}:{gpu_type}:{clock.now().isoformat()}"
            with because(Cause("service:scheduler", command_id, clock.now())):
                found = log.find(GpuPool, gpu_pool_id(region, gpu_type))
                pool = found or GpuPool.open(region, gpu_type)
                pool.change_capacity(count)
                log.commit(pool)

        log.retrying(attempt)


def _record_all(segments: Segments, messages: Sequence[dict[str, Any]]) -> None:
    for message in messages:
        try:
            report = Report.model_validate(message)
        except ValidationError as error:
            logging.getLogger("reports").warning("dropping a report: %s", error)
            continue
        segments.record(report)
