"""The datasets process: it validates uploads, counts tokens, and does the work of extensions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.event_handlers import REPLAY_SECONDS, EventHandlers, HandlerEffect
from infrastructure.bus.service import Work, broker_of, every, serve
from infrastructure.extensions import loaded
from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.log_identity import watch_log
from infrastructure.postgres.store import open_log, open_pool
from infrastructure.process.clock import clock_of
from infrastructure.settings import Settings
from services.datasets.counting import Counting
from services.datasets.handlers import Cleaning
from services.datasets.limited_work import LimitedWork, Resources
from services.datasets.unpacking import Sizes
from services.datasets.validating import Validating

POLL_SECONDS = 0.5
"""Maximum seconds between two queries for new work, after an event."""

IDLE_SECONDS = 0.5
"""Further seconds if there was no event."""


def run(settings: Settings) -> None:
    """Wait until no other datasets process runs, then validate and count until SIGTERM."""
    with leading(settings, "datasets") as leadership:
        _validate(settings, leadership)


def _validate(settings: Settings, leadership: Leadership) -> None:
    clock, artifacts = clock_of(settings), Artifacts(settings.artifacts)
    pool = open_pool(settings, max_size=8)
    log = open_log(settings, pool=pool, leadership=leadership)
    broker = broker_of(settings, "datasets")
    handlers = EventHandlers(Cleaning(log, artifacts, pool).handlers)
    effect = HandlerEffect("datasets", log, clock, handlers, pool.connection)
    consumer = OrderedConsumer(effect, log)
    consumer.subscribe(broker)
    sizes = Sizes(settings.dataset_max_bytes, settings.dataset_max_unpacked_bytes)
    resources = Resources(log, clock, artifacts, pool, sizes)
    added: Iterator[type[LimitedWork[Any]]] = loaded(lambda extension: extension.dataset_work)
    kinds = [kind(resources) for kind in (Validating, Counting, *added)]
    work = [*map(_polling, kinds), every(REPLAY_SECONDS, effect.replay_requested, "replay")]
    serve(broker, [consumer.durable], [*work, partial(watch_log, log)])


def _polling(kind: LimitedWork[Any]) -> Work:
    """Return work that queries for tasks when a task ends or an event arrives, and repeatedly."""

    def step() -> None:
        kind.start_waiting()
        kind.work.wait_for_any(POLL_SECONDS)

    return every(0, step, kind.NAME, IDLE_SECONDS)
