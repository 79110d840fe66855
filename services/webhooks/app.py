"""The webhooks process, which delivers events to the endpoints of account holders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

from infrastructure.clock import clock_of
from infrastructure.consumer import PROMPT_BATCH_SECONDS, OrderedConsumer
from infrastructure.leadership import leading
from infrastructure.log_identity import watch_log
from infrastructure.service import broker_of, every, serve
from infrastructure.settings import Settings
from infrastructure.store import open_log, open_pool
from infrastructure.webhook_deliveries import delete_old
from services.webhooks.deliveries import DeliveryQueue
from services.webhooks.dispatcher import Concurrency, Dispatcher
from services.webhooks.recording import RecordingEffect
from services.webhooks.sender import Sender

CLEAN_SECONDS = 600.0


def run(settings: Settings) -> None:
    """Wait until no other webhooks process runs, then deliver until SIGTERM."""
    with leading(settings, "webhooks"):
        _deliver(settings)


def _deliver(settings: Settings) -> None:
    clock = clock_of(settings)
    log, pool = open_log(settings), open_pool(settings)
    broker = broker_of(settings, "webhooks")
    consumer = OrderedConsumer(
        RecordingEffect(log, clock, pool.connection), log, PROMPT_BATCH_SECONDS
    )
    consumer.subscribe(broker)
    kept = timedelta(days=settings.webhook_days)

    def clean() -> None:
        with pool.connection() as connection:
            delete_old(connection, clock.now() - kept, datetime.now(UTC))

    async def dispatch() -> None:
        sender = Sender(settings.webhook_policy)
        try:
            most = Concurrency()
            queue = DeliveryQueue(pool, clock, sender.send, most.receiver)
            await Dispatcher(queue, most).run()
        finally:
            await sender.aclose()

    work = [dispatch, every(CLEAN_SECONDS, clean, "webhooks"), partial(watch_log, log)]
    serve(broker, [consumer.durable], work)
