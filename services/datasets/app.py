"""The datasets process: validates uploads and counts their tokens."""

from __future__ import annotations

import logging
from functools import partial

from infrastructure.artifacts import Artifacts
from infrastructure.clock import clock_of
from infrastructure.consumer import OrderedConsumer
from infrastructure.leadership import Leadership, leading
from infrastructure.reaction import REPLAY_SECONDS, ReactionEffect
from infrastructure.service import broker_of, every, serve
from infrastructure.settings import Settings
from infrastructure.store import open_log, open_pool
from services.datasets.counting import Counting
from services.datasets.handlers import Validating

COUNT_SECONDS = 0.5


def run(settings: Settings) -> None:
    """Validate and count until SIGTERM, once no other process does."""
    with leading(settings, "datasets") as leadership:
        _validate(settings, leadership)


def _validate(settings: Settings, leadership: Leadership) -> None:
    clock, artifacts = clock_of(settings), Artifacts(settings.artifacts)
    log, pool = open_log(settings, leadership=leadership), open_pool(settings, max_size=4)
    broker = broker_of(settings, "datasets")
    validating = Validating(log, artifacts, pool, settings)
    effect = ReactionEffect("datasets", log, clock, validating.react, pool.connection)
    consumer = OrderedConsumer(effect, log)
    counting = Counting(log, clock, artifacts, pool)
    consumer.subscribe(broker)
    work = [
        partial(every, COUNT_SECONDS, counting.count_missing, logging.getLogger("counting")),
        partial(every, REPLAY_SECONDS, effect.replay_requested, logging.getLogger("replay")),
    ]
    serve(broker, [consumer.durable], work)
