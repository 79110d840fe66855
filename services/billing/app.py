"""The billing process, with meters, leases and metered minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from infrastructure.bus.consumer import OrderedConsumer, subscribe_batches
from infrastructure.bus.event_handlers import REPLAY_SECONDS, EventHandlers, HandlerEffect
from infrastructure.bus.service import Work, broker_of, every, serve
from infrastructure.bus.streams import REPORTS, Durable
from infrastructure.extensions import installed, loaded
from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.log_identity import watch_log
from infrastructure.postgres.store import Connection, database_time, open_log, open_pool
from infrastructure.process.clock import Clock, clock_of
from infrastructure.settings import Settings
from services.billing.evidence import keep_evidence
from services.billing.handlers import Metering
from services.billing.settlement import LeasePolicy
from services.billing.ticker import Ticker

AddedWork = Callable[[Clock, EventLog, ConnectionPool[Connection]], Sequence[Work]]
"""A function of an extension that returns further work of the process."""

EVIDENCE = Durable("billing-evidence", REPORTS, ">")

CACHED_AGGREGATES = 1000

MIN_TICK_SECONDS, MAX_TICK_SECONDS = 0.05, 1.0


def tick_seconds(settings: Settings) -> float:
    """Return the real seconds between two ticks, which are a fifth of a metered minute."""
    fifth = settings.meter_minute_seconds / 5 / settings.clock_speed
    return max(MIN_TICK_SECONDS, min(MAX_TICK_SECONDS, fifth))


def run(settings: Settings) -> None:
    """Wait until no other billing process runs, then bill until SIGTERM."""
    with leading(settings, "billing") as leadership:
        _bill(settings, leadership)


def _bill(settings: Settings, leadership: Leadership) -> None:
    clock, policy = clock_of(settings), LeasePolicy.of(settings)
    pool = open_pool(settings)
    cached, led = CACHED_AGGREGATES, leadership
    log = open_log(settings, pool=pool, cached=cached, takes_snapshots=True, leadership=led)
    broker = broker_of(settings, "billing")

    def now() -> datetime:
        with pool.connection() as connection:
            return clock.at(database_time(connection))

    handlers = Metering(log, policy, now).handlers
    for extension in installed():  # also of one that is not selected: its open batches end
        for reference in extension.billing_handlers:
            others = extension.load(reference)(log)
            assert not others.keys() & handlers.keys(), f"{reference} replaces event handlers"
            handlers = {**handlers, **others}
    effect = HandlerEffect("billing", log, clock, EventHandlers(handlers), pool.connection)
    consumer = OrderedConsumer(effect, log)
    ticker = Ticker(log, clock, pool, policy)

    def keep(messages: Sequence[object]) -> None:
        with pool.connection() as connection:
            keep_evidence(connection, messages)

    consumer.subscribe(broker)
    subscribe_batches(broker, EVIDENCE, keep)
    work = [
        every(tick_seconds(settings), ticker.tick, "ticker"),
        every(REPLAY_SECONDS, effect.replay_requested, "replay"),
    ]
    added: Iterator[AddedWork] = loaded(lambda extension: extension.billing_work)
    for each in added:
        work += each(clock, log, pool)
    serve(broker, [consumer.durable, EVIDENCE], [*work, partial(watch_log, log)])
