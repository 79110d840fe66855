"""The exporter process, which writes models in other formats and deletes expired exports."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from psycopg_pool import ConnectionPool

from extensions.exports import export_rows, exporting, push_rows, pushing
from extensions.exports.exporting import Exports
from extensions.exports.handlers import Cleaning
from extensions.exports.pushing import Pushes
from extensions.exports.settings import ExportSettings
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.event_handlers import REPLAY_SECONDS, EventHandlers, HandlerEffect
from infrastructure.bus.service import broker_of, every, serve
from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.log_identity import watch_log
from infrastructure.postgres.store import Connection, open_log, open_pool
from infrastructure.process.clock import Clock, clock_of
from infrastructure.process.metrics import PENDING_SECONDS
from infrastructure.process.role import settings_of
from infrastructure.settings import Settings

POLL_SECONDS = 1.0
"""Maximum seconds between two queries for new work, after an event."""

IDLE_SECONDS = 1.0
"""Further seconds if there was no event."""

EXPIRY_SECONDS = 60.0

MEASURE_SECONDS = 15.0
"""Time between two updates of the gauges."""


def run(settings: Settings) -> None:
    """Wait until no other exporter runs, then export until SIGTERM."""
    with leading(settings, "exporter") as leadership:
        _export(settings, leadership)


def _export(settings: Settings, leadership: Leadership) -> None:
    clock, artifacts = clock_of(settings), Artifacts(settings.artifacts)
    own = settings_of(ExportSettings)
    pool = open_pool(settings, max_size=4)
    log = open_log(settings, pool=pool, leadership=leadership)
    broker = broker_of(settings, "exporter")
    handlers = EventHandlers(Cleaning(log, artifacts).handlers)
    effect = HandlerEffect("exporter", log, clock, handlers, pool.connection)
    consumer = OrderedConsumer(effect, log)
    consumer.subscribe(broker)
    exports = Exports(
        log,
        clock,
        artifacts,
        pool,
        exporting.Options(
            scratch=settings.home / "exporter",
            cache=settings.cache,
            model_cache_bytes=settings.model_cache_bytes,
            kept_free_bytes=settings.disk_critical_bytes,
            kept_for=timedelta(days=own.export_retention_days),
            at_once=own.max_concurrent_exports,
        ),
    )

    pushes = Pushes(
        log,
        clock,
        artifacts,
        pool,
        pushing.Options(
            endpoint=settings.hub_endpoint,
            scratch=settings.home / "exporter-pushes",
            kept_free_bytes=settings.disk_critical_bytes,
            at_once=own.max_concurrent_pushes,
        ),
    )

    def push() -> None:
        pushes.start_pending()
        pushes.work.wait_for_any(POLL_SECONDS)

    def poll() -> None:
        exports.start_pending()
        exports.work.wait_for_any(POLL_SECONDS)

    measure = partial(measure_pending, pool, clock)
    work = [
        every(0, poll, "exports", IDLE_SECONDS),
        every(0, push, "pushes", IDLE_SECONDS),
        every(EXPIRY_SECONDS, exports.expire, "expiry"),
        every(EXPIRY_SECONDS, pushes.delete_tokens, "tokens"),
        every(MEASURE_SECONDS, measure, "metrics"),
        every(REPLAY_SECONDS, effect.replay_requested, "replay"),
    ]
    serve(broker, [consumer.durable], [*work, partial(watch_log, log)])


def measure_pending(pool: ConnectionPool[Connection], clock: Clock) -> None:
    """Set the gauges of pending exports and pushes."""
    now = clock.now()
    with pool.connection() as connection:
        PENDING_SECONDS.labels("exports").set(export_rows.stalled_seconds(connection, now))
        PENDING_SECONDS.labels("pushes").set(push_rows.stalled_seconds(connection, now))
