"""Checks of the copies that the servers of a NATS cluster hold."""

from __future__ import annotations

from asyncio import run
from collections.abc import Iterator

from nats.errors import Error as NatsError
from nats.js import api
from nats.js.errors import NotFoundError

from infrastructure.bus import streams as bus
from infrastructure.checks.machine import Check, Level
from infrastructure.settings import Settings

NAME = "streams"


def stream_checks(settings: Settings) -> Iterator[Check]:
    """Compare the copies of each stream with the setting. Yield nothing without a cluster."""
    if settings.nats_url is None or settings.nats_replicas == 1:
        return
    try:
        found = run(_streams(settings))
    except (NatsError, OSError, TimeoutError) as error:
        majority = settings.nats_replicas // 2 + 1
        reason = str(error) or type(error).__name__
        text = f"The cluster does not answer: {reason}. Start at least {majority} of its servers."
        yield Check(NAME, Level.FAILED, text)
        return
    wanted = settings.nats_replicas
    few = [f"{name} has {copies}" for name, copies in found.items() if copies < wanted]
    if few:
        fix = "Start the missing servers, and wait until they have copied the streams."
        text = f"ECOLINK_NATS_REPLICAS is {wanted}, but of complete copies, {', '.join(few)}. {fix}"
        yield Check(NAME, Level.WARNING, text)
    else:
        yield Check(NAME, Level.OK, f"Each stream has {wanted} complete copies")


async def _streams(settings: Settings) -> dict[str, int]:
    client = await bus.connect(settings, connect_timeout=5, max_reconnect_attempts=1)
    try:
        js, found = client.jetstream(), dict[str, int]()
        for declared in bus.STREAMS:
            assert declared.name is not None
            try:
                found[declared.name] = complete_copies(await js.stream_info(declared.name))
            except NotFoundError:
                continue  # the services create it when they start
        return found
    finally:
        await client.close()


def complete_copies(stream: api.StreamInfo) -> int:
    """Return the number of servers that hold all messages of a stream."""
    peers = (stream.cluster.replicas if stream.cluster else None) or []
    return 1 + sum(bool(each.current) and not each.offline for each in peers)
