"""The webhooks process, which sends events to account holders: by webhooks and by e-mail."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial

from extensions.notifications.notices.mail import Letterhead
from extensions.notifications.notices.queue import MOST, NoticeQueue
from extensions.notifications.notices.smtp import MailServer, send
from extensions.notifications.notices.tables import delete_old_notices
from extensions.notifications.recording import RecordingEffect
from extensions.notifications.settings import NotificationSettings
from extensions.notifications.webhooks.deliveries import delete_old
from extensions.notifications.webhooks.queue import DeliveryQueue
from extensions.notifications.webhooks.sender import Sender
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.service import Work, broker_of, every, serve
from infrastructure.http.dispatcher import Concurrency, Dispatcher
from infrastructure.postgres.leadership import leading
from infrastructure.postgres.log_identity import watch_log
from infrastructure.postgres.store import open_log, open_pool
from infrastructure.process.clock import clock_of
from infrastructure.process.role import settings_of
from infrastructure.settings import Settings

CLEAN_SECONDS = 600.0


def run(settings: Settings) -> None:
    """Wait until no other webhooks process runs, then deliver until SIGTERM."""
    with leading(settings, "webhooks"):
        _deliver(settings)


def _deliver(settings: Settings) -> None:
    own, clock = settings_of(NotificationSettings), clock_of(settings)
    pool = open_pool(settings)
    log = open_log(settings, pool=pool)
    broker = broker_of(settings, "webhooks")
    consumer = OrderedConsumer(RecordingEffect(log, clock, pool.connection), log)
    consumer.subscribe(broker)
    kept = timedelta(days=own.delivery_retention_days)

    def clean() -> None:
        with pool.connection() as connection:
            delete_old(connection, clock.now() - kept, datetime.now(UTC))
            delete_old_notices(connection, clock.now() - kept)

    async def dispatch() -> None:
        sender = Sender(settings.webhook_policy)
        try:
            most = Concurrency()
            queue = DeliveryQueue(pool, clock, sender.send, most.receiver)
            await Dispatcher(queue, most).run()
        finally:
            await sender.aclose()

    work: list[Work] = [dispatch, every(CLEAN_SECONDS, clean, "webhooks"), partial(watch_log, log)]
    if (server := MailServer.of(own)) is not None:
        assert settings.public_url is not None
        letterhead = Letterhead(server.sender, settings.public_url)
        work.append(
            partial(_send_notices, NoticeQueue(pool, clock, letterhead, partial(send, server)))
        )
    serve(broker, [consumer.durable], work)


async def _send_notices(queue: NoticeQueue) -> None:
    with closing(queue):
        await Dispatcher(queue, MOST).run()
