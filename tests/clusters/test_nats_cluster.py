"""A cluster of NATS whose servers fail while the relay, trainers and consumers work."""

from __future__ import annotations

import asyncio
import ssl
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from domain.core.event_log import EventLog
from infrastructure.bus.consumer import OrderedConsumer, subscribe_batches
from infrastructure.bus.service import broker_of
from infrastructure.bus.streams import (
    EVENTS,
    REPORTS,
    STREAMS,
    Durable,
    TooFewServers,
    connect,
    provision,
)
from infrastructure.checks.machine import Level
from infrastructure.checks.streams import complete_copies, stream_checks
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import connect as connect_database
from infrastructure.postgres.store import open_log
from infrastructure.settings import Settings
from infrastructure.training.reports import Control
from services.relay.publisher import Publisher
from tests.builders.effects import KeptIds
from tests.builders.history import History
from tests.certificates import Authority
from tests.clusters.nats_cluster import NAMES, NatsCluster, leader, nats_cluster
from tests.clusters.trainer import ReportingTrainer
from tests.clusters.writers import Writers
from tests.logs import envelopes, ids
from tests.polling import eventually_async
from tests.services.relay.test_publisher import contents

REPORTS_DURABLE = Durable("reports", REPORTS, "reports.>")
PAUSE_SECONDS = 0.05
"""Pause of a writer between two events."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    folder = tmp_path / "nats"
    folder.mkdir()
    with nats_cluster(folder) as running:
        yield running


@asynccontextmanager
async def jetstream(settings: Settings) -> AsyncIterator[JetStreamContext]:
    """Connect to the cluster as soon as one of its servers answers."""

    async def ignore(error: Exception) -> None:
        del error  # a server of the cluster is down

    client = await connect(
        settings, max_reconnect_attempts=-1, reconnect_time_wait=1, error_cb=ignore
    )
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def patiently(step: Callable[[], Awaitable[object]]) -> None:
    """Repeat a step until the cluster has a leader and answers."""

    async def done() -> bool:
        try:
            await step()
        except (NatsError, TimeoutError):
            return False
        return True

    await eventually_async(done)


async def copied(js: JetStreamContext, count: int = len(NAMES)) -> bool:
    """Return True if every stream has this number of complete copies."""
    try:
        found = [complete_copies(await js.stream_info(each.name or "")) for each in STREAMS]
    except (NatsError, TimeoutError):
        return False
    return found == [count] * len(STREAMS)


@pytest.mark.full
async def test_the_number_of_copies_follows_the_setting(
    settings: Settings, cluster: NatsCluster
) -> None:
    durables = (REPORTS_DURABLE,)
    async with jetstream(cluster.settings(settings)) as js:
        await patiently(lambda: provision(js, durables))
        changes: list[str] = []

        async def provisioned() -> bool:
            with suppress(TooFewServers):  # a server has not joined the cluster yet
                changes.extend(await provision(js, durables, 3))
                return True
            return False

        await eventually_async(provisioned)
        assert set(changes) <= {f"stream {each.name} updated" for each in STREAMS}
        await eventually_async(lambda: copied(js))

        async def consumer_copied() -> bool:
            found = (await js.consumer_info(REPORTS, REPORTS_DURABLE.name)).cluster
            return found is not None and len(found.replicas or []) == len(NAMES) - 1

        await eventually_async(consumer_copied)
        assert await provision(js, durables, 3) == []
        with pytest.raises(TooFewServers, match="ECOLINK_NATS_REPLICAS is 5"):
            await provision(js, durables, 5)
        (check,) = await asyncio.to_thread(lambda: list(stream_checks(cluster.settings(settings))))
        assert (check.level, check.text) == (Level.OK, "Each stream has 3 complete copies")
        await strike(js, cluster, "follower")
        await eventually_async(lambda: copied(js, 2))
        (check,) = await asyncio.to_thread(lambda: list(stream_checks(cluster.settings(settings))))
        assert check.level is Level.WARNING
        assert "EVENTS has 2" in check.text


async def test_copies_need_a_cluster(js: JetStreamContext) -> None:
    with pytest.raises(TooFewServers, match="ECOLINK_NATS_REPLICAS is 3"):
        await provision(js, (), 3)


async def test_events_arrive_in_a_cluster_with_tls(
    settings: Settings, history: History, log: EventLog, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority")
    certificates = authority.issue(tmp_path / "certificates", "127.0.0.1")
    folder = tmp_path / "nats"
    folder.mkdir()
    history.run_until("launched")
    with nats_cluster(folder, certificates) as cluster:
        own = cluster.settings(settings)
        async with jetstream(own) as js:
            await patiently(lambda: provision(js, (), own.nats_replicas))
            await eventually_async(lambda: copied(js))
            broker = broker_of(own, "relay")
            with connect_database(own) as store:
                publisher = Publisher(log, await broker.connect(), log_identity(store))
            await publisher.publish_new()
            await broker.stop()
            assert await contents(js) == envelopes(log)
        for port in cluster.route_ports.values():
            assert "certificate required" in await refusal_without_a_certificate(port, authority)


async def refusal_without_a_certificate(port: int, authority: Authority) -> str:
    """Return why a server ends a route of a peer that has no certificate."""
    context = ssl.create_default_context(cafile=str(authority.file))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    with pytest.raises(ssl.SSLError) as refused:
        await reader.read()
    writer.close()
    return str(refused.value).replace("_", " ").lower()


class Relay:
    """A relay that records when the cluster acknowledged events."""

    def __init__(self, settings: Settings, log: EventLog) -> None:
        self._settings, self._log = settings, log
        self.acknowledged: list[float] = []

    async def run(self) -> None:
        """Publish until cancelled."""
        client = await broker_of(self._settings, "relay").connect()
        with connect_database(self._settings) as store:
            publisher = Publisher(self._log, client, log_identity(store))
        while True:
            if await publisher.publish_new():
                self.acknowledged.append(time.monotonic())
            await asyncio.sleep(PAUSE_SECONDS)

    async def pause_after(self, moment: float) -> float:
        """Return the longest time without an acknowledgement, from just before a moment."""

        async def acknowledged() -> bool:
            return sum(each > moment for each in self.acknowledged) > 5

        await eventually_async(acknowledged)
        times = [max((t for t in self.acknowledged if t <= moment), default=moment)]
        times += [each for each in self.acknowledged if each > moment]
        return max(later - earlier for earlier, later in pairwise(times))


FAULTS = (*("leader", "follower") * 3, *("whole cluster",) * 2)


async def strike(js: JetStreamContext, cluster: NatsCluster, fault: str) -> tuple[str, ...]:
    """Kill the leader of the events, a follower, or all servers. Return the killed ones."""
    leads = await leader(js, EVENTS)
    killed = {
        "leader": (leads,),
        "follower": (next(name for name in NAMES if name != leads),),
        "whole cluster": NAMES,
    }[fault]
    cluster.kill(*killed)
    return killed


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_no_event_and_no_report_is_lost_when_servers_fail(
    settings: Settings,
    cluster: NatsCluster,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    own = cluster.settings(settings)
    trainer, writers = ReportingTrainer(own, tmp_path), Writers(own, PAUSE_SECONDS)
    reports: list[dict] = []
    pauses: dict[str, list[float]] = {fault: [] for fault in FAULTS}
    with open_log(own) as log:
        relay, effect, broker = Relay(own, log), KeptIds("kept"), broker_of(own, "test")
        consumer = OrderedConsumer(effect, log)
        async with jetstream(own) as js:
            durables = (consumer.durable, REPORTS_DURABLE)
            await patiently(lambda: provision(js, durables, own.nats_replicas))
            await eventually_async(lambda: copied(js))
            consumer.subscribe(broker)
            subscribe_batches(broker, REPORTS_DURABLE, reports.extend)  # type: ignore[arg-type]
            await broker.start()
            publishing = asyncio.ensure_future(relay.run())
            with trainer.running() as training, writers.running(2):
                for fault in FAULTS:
                    await relay.pause_after(time.monotonic())
                    struck_at = time.monotonic()
                    killed = await strike(js, cluster, fault)
                    if fault == "whole cluster":
                        cluster.start()
                    pauses[fault].append(await relay.pause_after(struck_at))
                    if fault != "whole cluster":
                        cluster.start(*killed)
                    await eventually_async(lambda: copied(js))
                trainer.finish()
                await eventually_async(lambda: ended(reports))
                answer = Control(
                    job_id=trainer.spec.job_id, segment=1, paid_seconds=3600, answered=True
                )
                await js.publish(answer.subject, answer.model_dump_json().encode())
                await asyncio.to_thread(training.join)
            await eventually_async(lambda: consumed(effect, log))
            publishing.cancel()
            await broker.stop()
            assert await contents(js) == envelopes(log)
            assert effect.ids == ids(log), "each event is applied once, in order"
            info = await js.stream_info("TELEMETRY")
            assert info.state.messages == trainer.steps, "a measurement was lost or repeated"
    for fault, times in pauses.items():
        text = f"median {statistics.median(times):.1f} s, worst {max(times):.1f} s"
        record_property("measured", f"NATS, {fault} killed: time without a stored event, {text}")


async def ended(reports: list[dict]) -> bool:
    return any(each["ending"] for each in reports)


async def consumed(effect: KeptIds, log: EventLog) -> bool:
    return effect.ids == await asyncio.to_thread(ids, log)
