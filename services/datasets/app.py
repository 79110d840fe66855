"""The datasets process: it validates uploads, counts their tokens and analyzes their quality."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from infrastructure.artifacts import Artifacts
from infrastructure.clock import clock_of
from infrastructure.consumer import OrderedConsumer
from infrastructure.event_handlers import REPLAY_SECONDS, EventHandlers, HandlerEffect
from infrastructure.fair_work import FairWork
from infrastructure.leadership import Leadership, leading
from infrastructure.log_identity import watch_log
from infrastructure.service import Work, broker_of, every, serve
from infrastructure.settings import Settings
from infrastructure.store import open_log, open_pool
from services.datasets.analyzing import Analyzing
from services.datasets.comparing import Comparing
from services.datasets.counting import Counting
from services.datasets.handlers import Cleaning
from services.datasets.unpacking import Sizes
from services.datasets.validating import Validating

POLL_SECONDS = 0.5
"""Maximum seconds between two queries for new work."""


def run(settings: Settings) -> None:
    """Wait until no other datasets process runs, then validate and count until SIGTERM."""
    with leading(settings, "datasets") as leadership:
        _validate(settings, leadership)


def _validate(settings: Settings, leadership: Leadership) -> None:
    clock, artifacts = clock_of(settings), Artifacts(settings.artifacts)
    log, pool = open_log(settings, leadership=leadership), open_pool(settings, max_size=8)
    broker = broker_of(settings, "datasets")
    handlers = EventHandlers(Cleaning(log, artifacts, pool).handlers)
    effect = HandlerEffect("datasets", log, clock, handlers, pool.connection)
    consumer = OrderedConsumer(effect, log)
    consumer.subscribe(broker)
    sizes = Sizes(settings.dataset_max_bytes, settings.dataset_max_unpacked_bytes)
    validating = Validating(log, clock, artifacts, pool, sizes)
    counting = Counting(log, clock, artifacts, pool)
    analyzing = Analyzing(log, clock, artifacts, pool)
    comparing = Comparing(log, clock, artifacts, pool)
    work = [
        _polling(validating.validate_waiting, validating.work, "validating"),
        _polling(counting.count_missing, counting.work, "counting"),
        _polling(analyzing.analyze_waiting, analyzing.work, "analyzing"),
        _polling(comparing.compare_waiting, comparing.work, "comparing"),
        every(REPLAY_SECONDS, effect.replay_requested, "replay"),
    ]
    serve(broker, [consumer.durable], [*work, partial(watch_log, log)])


def _polling(poll: Callable[[], None], work: FairWork, name: str) -> Work:
    """Return work that queries for tasks when a task ends, and at least every POLL_SECONDS."""

    def step() -> None:
        poll()
        work.wait_for_any(POLL_SECONDS)

    return every(0, step, name)
