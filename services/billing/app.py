"""The billing process: meters, leases, and the minutes of every running segment."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from infrastructure.bus import REPORTS, Durable
from infrastructure.clock import SystemClock
from infrastructure.consumer import OrderedConsumer, subscribe_batches
from infrastructure.reaction import REPLAY_SECONDS, ReactionEffect
from infrastructure.service import broker_of, every, serve
from infrastructure.settings import Settings
from infrastructure.store import open_log, open_pool
from services.billing.evidence import keep_evidence
from services.billing.handlers import Metering
from services.billing.settlement import LeasePolicy
from services.billing.ticker import Ticker

EVIDENCE = Durable("billing-evidence", REPORTS, ">")

CACHED_AGGREGATES = 1000


def run(settings: Settings) -> None:
    """Bill until SIGTERM."""
    clock, policy = SystemClock(), LeasePolicy.of(settings)
    log, pool = open_log(settings, cached=CACHED_AGGREGATES), open_pool(settings)
    broker = broker_of(settings, "billing")
    metering = Metering(log, policy)
    effect = ReactionEffect("billing", log, clock, metering.react, pool.connection)
    consumer = OrderedConsumer(effect, log)
    ticker = Ticker(log, clock, pool, policy)

    def keep(messages: Sequence[dict[str, Any]]) -> None:
        with pool.connection() as connection:
            keep_evidence(connection, messages)

    consumer.subscribe(broker)
    subscribe_batches(broker, EVIDENCE, keep)
    tick_seconds = min(1.0, settings.meter_minute_seconds / 5)
    work = [
        partial(every, tick_seconds, ticker.tick, logging.getLogger("ticker")),
        partial(every, REPLAY_SECONDS, effect.replay_requested, logging.getLogger("replay")),
    ]
    serve(broker, [consumer.durable, EVIDENCE], work)
