"""The serving process, which follows the log and keeps the wanted deployments in memory."""

from __future__ import annotations

from contextlib import closing
from functools import partial

from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.event_handlers import REPLAY_SECONDS, EventHandlers, HandlerEffect
from infrastructure.bus.service import broker_of, every, serve
from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.log_identity import watch_log
from infrastructure.postgres.store import open_log, open_pool
from infrastructure.process.clock import clock_of
from infrastructure.settings import Settings
from services.serving.api import create_app, serve_app
from services.serving.attempts import Attempts
from services.serving.engine import Engine, EngineOptions
from services.serving.handlers import Serving
from services.serving.weights import WeightStore

RETRY_SECONDS = 1.0
"""Seconds between two checks for deployments to retry."""


def run(settings: Settings) -> None:
    """Serve until SIGTERM, as the only serving process, after loading all deployments."""
    with leading(settings, "serving") as leadership:
        _serve(settings, leadership)


def _serve(settings: Settings, leadership: Leadership) -> None:
    assert settings.serving_secret is not None
    clock = clock_of(settings)
    pool = open_pool(settings, max_size=4)
    log = open_log(settings, pool=pool, leadership=leadership)
    broker = broker_of(settings, "serving")
    store = WeightStore(Artifacts(settings.artifacts), settings.cache)
    attempts = Attempts(settings.home / "serving" / "attempts.json")
    with closing(Engine(_options(settings))) as engine:
        serving = Serving(log, clock, store, attempts, engine)
        handlers = EventHandlers(serving.handlers)
        effect = HandlerEffect("serving", log, clock, handlers, pool.connection)
        consumer = OrderedConsumer(effect, log)
        serving.restore()
        consumer.subscribe(broker)
        replay = every(REPLAY_SECONDS, effect.replay_requested, "replay")
        again = every(RETRY_SECONDS, serving.try_again, "room")
        chats = create_app(engine, settings.serving_secret)
        listen = partial(serve_app, chats, settings.serving_host, settings.serving_port)
        serve(broker, [consumer.durable], [replay, again, listen, partial(watch_log, log)])


def _options(settings: Settings) -> EngineOptions:
    return EngineOptions(
        rows=settings.serving_rows,
        cache_bytes=settings.serving_cache_bytes,
        queue_limit=settings.serving_queue_limit,
        precision=settings.serving_precision,
        device=settings.serving_device,
        threads=settings.serving_threads,
    )
