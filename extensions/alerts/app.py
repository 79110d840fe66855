"""The alerts process: it stores alerts, and notifies operators when one fires or resolves."""

from __future__ import annotations

import asyncio
import logging
import sys

from extensions.alerts.delivery import Delivery
from extensions.alerts.effect import NAME, AlertEffect
from extensions.alerts.rules_file import RulesInvalid
from extensions.alerts.settings import AlertSettings
from extensions.alerts.watch import RulesInForce, Watch
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.service import broker_of, every, serve
from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.log_identity import watch_log
from infrastructure.postgres.store import open_log, open_pool
from infrastructure.process.clock import clock_of
from infrastructure.process.role import settings_of
from infrastructure.settings import Settings

EVALUATE_SECONDS = 1.0
CATCH_UP_SECONDS = 300.0
"""Seconds to read the log at the start, before the checks begin anyway."""


def run(settings: Settings) -> None:
    """Wait until no other alerts process runs, then watch until SIGTERM.

    Exit with status 1 if the file of rules is invalid.
    """
    try:
        in_force = RulesInForce(settings_of(AlertSettings).alerts_file)
    except RulesInvalid as error:
        for problem in error.problems:
            logging.getLogger("alerts").critical("%s", problem)
        sys.exit(1)
    with leading(settings, NAME) as leadership:
        _watch(settings, in_force, leadership)


def _watch(settings: Settings, in_force: RulesInForce, leadership: Leadership) -> None:
    pool, clock = open_pool(settings, max_size=4), clock_of(settings)
    log = open_log(settings, pool=pool)
    effect = AlertEffect(
        lambda: tuple(in_force.rules.rules.values()), clock, pool.connection, leadership
    )
    consumer = OrderedConsumer(effect, log)
    watch = Watch(settings, in_force, clock, pool.connection, leadership)
    delivery = Delivery(lambda: in_force.rules, clock, pool.connection)
    broker = broker_of(settings, NAME)
    consumer.subscribe(broker)

    async def watch_after_catching_up() -> None:
        # An alert must not fire for an event that a later one in the log takes back. But if the
        # process cannot read the log, it must still check everything else.
        await asyncio.wait({asyncio.ensure_future(consumer.begin())}, timeout=CATCH_UP_SECONDS)
        await every(EVALUATE_SECONDS, watch.step, NAME)()

    serve(
        broker,
        [consumer.durable],
        [watch_after_catching_up, delivery.run, lambda: watch_log(log)],
    )
