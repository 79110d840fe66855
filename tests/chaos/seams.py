"""The seams at which a process under test meets a database, a bus, a store or a trainer.

`install` wraps them with failpoints. The product's code does not know about it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from threading import Timer
from typing import Any

from tests.chaos.facts import FactFile
from tests.chaos.failpoints import Failpoints

SENT_SECONDS = 0.001
"""Time after which the statement of a save is probably on its way."""

POINTS: dict[str, tuple[str, ...]] = {
    "relay": ("publish.before", "publish.sent", "publish.after"),
    "projector": ("commit.before", "commit.after", "ack.before", "ack.after"),
    "billing": (
        *("save.before", "save.sent", "save.after"),
        *("commit.before", "commit.after", "ack.before", "ack.after"),
    ),
    "scheduler": (
        *("save.before", "save.sent", "save.after", "ack.before", "ack.after"),
        *("publish.before", "publish.sent", "publish.after"),
        *("launch.before", "launch.inside", "launch.after", "put.before", "put.after"),
    ),
    "gateway": ("save.before", "save.sent", "save.after"),
    "sealer": ("put.before", "put.after"),
    "webhooks": ("save.before", "save.after", "commit.before", "commit.after", "ack.before"),
    "alerts": ("commit.before", "commit.after", "ack.before", "ack.after"),
    "exporter": (
        *("save.before", "save.after", "put.before", "put.after"),
        *("commit.before", "commit.after", "ack.before"),
    ),
    "trackers": ("commit.before", "commit.after"),
    "synthesis": ("save.before", "save.sent", "save.after", "put.before", "put.after"),
    "trainer": ("publish.before", "publish.sent", "publish.after", "put.before", "put.after"),
}
"""Failpoints that each process reaches while jobs run."""


def install(points: Failpoints, writes: FactFile | None) -> None:
    """Wrap the seams of this process. With `writes`, record every save of a leader."""
    _wrap_bus(points)
    _wrap_store(points)
    if writes is not None:
        _wrap_database(points, writes)


def install_launcher(points: Failpoints) -> None:
    """Wrap the start of a pod: before, between the shim's start and its record, and after."""
    from services.scheduler.launchers import local

    local.LocalLauncher.launch = _around(local.LocalLauncher.launch, points, "launch")
    start_shim = local.start_shim

    @wraps(start_shim)
    def started(*args: Any, **kwargs: Any) -> Any:
        shim = start_shim(*args, **kwargs)
        points.hit("launch.inside")
        return shim

    local.start_shim = started


def _around(function: Callable[..., Any], points: Failpoints, name: str) -> Callable[..., Any]:
    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        points.hit(f"{name}.before")
        result = function(*args, **kwargs)
        points.hit(f"{name}.after")
        return result

    return wrapped


def _wrap_database(points: Failpoints, writes: FactFile) -> None:
    """Wrap saves of events, and the commit of every other transaction."""
    from psycopg import Transaction

    from infrastructure.postgres.event_recorder import EventRecorder

    insert = EventRecorder.insert_events

    @wraps(insert)
    def insert_events(self: EventRecorder, *args: Any, **kwargs: Any) -> Any:
        points.hit("save.before")
        if points.armed("save.sent"):  # while the database works on the statement
            Timer(SENT_SECONDS, points.hit, ["save.sent"]).start()
        ids = insert(self, *args, **kwargs)
        if self.leadership is not None and ids:
            lead = self.leadership
            writes.write("save", name=lead.name, epoch=lead.epoch, ids=list(ids))
        points.hit("save.after")
        return ids

    leave = Transaction.__exit__

    @wraps(leave)
    def left(self: Transaction, exc_type: Any, exc_val: Any, exc_tb: Any) -> bool:
        commits = exc_type is None and not self.force_rollback
        if commits:
            points.hit("commit.before")
        result = leave(self, exc_type, exc_val, exc_tb)
        if commits:
            points.hit("commit.after")
        return result

    EventRecorder.insert_events = insert_events
    Transaction.__exit__ = left


def _wrap_bus(points: Failpoints) -> None:
    """Wrap JetStream's publish, also between its message and its acknowledgement, and acks."""
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.errors import Error as NatsError
    from nats.js import JetStreamContext

    publish, ack, request = JetStreamContext.publish, Msg.ack, Client.publish

    @wraps(publish)
    async def published(self: JetStreamContext, *args: Any, **kwargs: Any) -> Any:
        points.hit("publish.before")
        result = await publish(self, *args, **kwargs)
        points.hit("publish.after")
        return result

    @wraps(request)
    async def sent(self: Client, subject: str, *args: Any, **kwargs: Any) -> Any:
        result = await request(self, subject, *args, **kwargs)
        if not subject.startswith(("$JS", "_INBOX")) and points.armed("publish.sent"):
            with suppress(NatsError):
                await self.flush()
            points.hit("publish.sent")
        return result

    @wraps(ack)
    async def acked(self: Msg) -> None:
        points.hit("ack.before")
        await ack(self)
        points.hit("ack.after")

    JetStreamContext.publish = published
    Client.publish = sent
    Msg.ack = acked


def _wrap_store(points: Failpoints) -> None:
    from infrastructure.artifacts.store import Artifacts

    for name in ("put", "put_file", "_take_file"):
        setattr(Artifacts, name, _around(getattr(Artifacts, name), points, "put"))
