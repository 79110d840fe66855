"""The NATS users of the services on a real server: their own work succeeds, the rest is refused."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import chain
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, NotFoundError

from deploy.bus_access import BUS_ACCESS, SUBSCRIBER
from deploy.local.home import Home
from deploy.local.nats import binary
from deploy.local.ports import free_port
from deploy.nats_accounts import USERS, NatsKeys, configuration
from deploy.processes import PROCESSES
from infrastructure.bus.keys import credentials_file, user_jwt
from infrastructure.bus.service import Provisioned, StreamMissing, broker_of
from infrastructure.bus.streams import (
    CONTROL,
    EVENTS,
    OPERATOR,
    REPORTS,
    STREAM_NAMES,
    TELEMETRY,
    Durable,
    provision,
)
from infrastructure.extensions import installed, processes
from infrastructure.rights import API, SYSTEM_API
from infrastructure.settings import Settings
from services.billing.app import EVIDENCE
from services.projector.app import STORES
from services.scheduler.app import REPORTS_DURABLE
from tests.polling import eventually

SECONDS = 60.0

EXTENSIONS = {name for name, each in processes(installed()).items() if each.bus is not None}
"""Processes of extensions that use the bus."""

DURABLES = {
    EVENTS: (
        *(
            "projections",
            "billing",
            "scheduler",
            "datasets",
            "serving",
            *EXTENSIONS,
        ),
        "someone-else",
    ),
    REPORTS: ("billing-evidence", "scheduler-reports"),
    TELEMETRY: ("measurements-steps", "measurements-evaluations", "measurements-logs"),
    CONTROL: (),
}

MESSAGES = {
    **{"events": "events.a.Job.1.JobApproved", "reports": "reports.a.j.1"},
    **{"evidence": "evidence.a.j.1", "telemetry": "telemetry.a.j.1", "logs": "logs.a.j.1"},
    **{"evaluations": "evaluations.a.j.1", "control": "control.j.1"},
}

ON_STREAM = (
    *("STREAM.INFO", "STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "STREAM.PURGE"),
    *("STREAM.MSG.GET", "STREAM.MSG.DELETE", "STREAM.SNAPSHOT", "STREAM.RESTORE"),
    *("STREAM.LEADER.STEPDOWN", "STREAM.PEER.REMOVE", "CONSUMER.LIST", "CONSUMER.NAMES"),
    *("CONSUMER.CREATE", "DIRECT.GET"),
)
ON_DURABLE = (
    *("CONSUMER.INFO", "CONSUMER.DURABLE.CREATE", "CONSUMER.CREATE", "CONSUMER.DELETE"),
    *("CONSUMER.MSG.NEXT", "CONSUMER.PAUSE", "CONSUMER.RESET", "CONSUMER.UNPIN"),
    "CONSUMER.LEADER.STEPDOWN",
)

SUBSCRIPTIONS = (
    *(">", "*.>", "events.>", "reports.>", "evidence.>", "telemetry.>", "logs.>", "control.>"),
    *("$JS.>", "$JS.API.>", "$JS.EVENT.>", "$JS.ACK.>", "$SYS.>", "_R_.>", "ECOLINK.>"),
)


def durable(stream: str, *names: str) -> set[str]:
    """Operations of a service on its own durable consumers."""
    verbs = ("CONSUMER.INFO", "CONSUMER.DURABLE.CREATE", "CONSUMER.MSG.NEXT", "CONSUMER.DELETE")
    own = {f"{verb}.{stream}.{name}" for verb in verbs for name in names}
    return own | {f"ACK.{stream}.{name}" for name in names}


EXPECTED: dict[str, set[str]] = {
    "relay": {
        *("publish events", f"STREAM.PURGE.{EVENTS}", f"STREAM.INFO.{EVENTS}"),
        f"STREAM.MSG.GET.{EVENTS}",
    },
    "projector": durable(EVENTS, "projections") | durable(TELEMETRY, *DURABLES[TELEMETRY]),
    "billing": durable(EVENTS, "billing") | durable(REPORTS, "billing-evidence"),
    "scheduler": {
        *("publish control", "publish evidence", f"STREAM.INFO.{REPORTS}"),
        f"STREAM.MSG.GET.{REPORTS}",
    }
    | durable(EVENTS, "scheduler")
    | durable(REPORTS, "scheduler-reports"),
    **{name: durable(EVENTS, name) for name in ("datasets", "serving", *EXTENSIONS)},
    SUBSCRIBER: (durable(EVENTS, "someone-else") | {f"CONSUMER.CREATE.{EVENTS}.someone-else"})
    - {f"CONSUMER.DURABLE.CREATE.{EVENTS}.someone-else"},
    OPERATOR: {
        *(
            f"STREAM.{verb}.{each}"
            for verb in ("INFO", "CREATE", "UPDATE")
            for each in STREAM_NAMES
        ),
        *(f"STREAM.PURGE.{EVENTS}", f"CONSUMER.CREATE.{EVENTS}", "INFO"),
        *(f"CONSUMER.INFO.{EVENTS}.{name}" for name in DURABLES[EVENTS]),
        f"CONSUMER.DELETE.{EVENTS}.someone-else",
    },
}
"""All operations that each user may do. Every other one must be refused."""


def operations() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each operation, and the subjects by which a client could request it."""
    for kind, subject in MESSAGES.items():
        yield f"publish {kind}", (subject,)
    requests = ["INFO", "STREAM.NAMES", "STREAM.LIST", "META.LEADER.STEPDOWN", "SERVER.REMOVE"]
    requests += [f"{verb}.{stream}" for verb in ON_STREAM for stream in STREAM_NAMES]
    for stream, names in DURABLES.items():
        requests += [f"{verb}.{stream}.{name}" for verb in ON_DURABLE for name in names]
    for each in requests:
        filtered = (f"{each}.events.>",) if each.startswith("CONSUMER.CREATE") else ()
        subjects = (each, *filtered) if each.count(".") > 2 else (each,)
        yield each, tuple(f"{prefix}.{s}" for prefix in (SYSTEM_API, API) for s in subjects)
    for stream, names in DURABLES.items():
        for name in names:
            yield f"ACK.{stream}.{name}", (f"$JS.ACK.{stream}.{name}.1.1.1.1.0",)


@pytest.fixture
def keys(servers: Settings) -> NatsKeys:
    return Home(servers.home).passwords().nats


@pytest.fixture
async def streams(js: JetStreamContext) -> JetStreamContext:
    """The streams with a message each, and the durable consumers."""
    declared = [Durable(name, stream, ">") for stream in DURABLES for name in DURABLES[stream]]
    await provision(js, tuple(declared))
    for subject in MESSAGES.values():
        await js.publish(subject, b"{}")
    return js


async def state(js: JetStreamContext) -> dict[str, object]:
    """Return everything that a client could change."""
    found: dict[str, object] = {}
    for each in await js.streams_info():
        assert each.config.name is not None
        consumers = await js.consumers_info(each.config.name)
        found[each.config.name] = (
            *(each.config.as_dict(), each.state.messages, each.state.last_seq),
            {one.name: (one.config.as_dict(), one.delivered, one.ack_floor) for one in consumers},
        )
    return found


class User:
    """A connection of a user, and the subjects that the server refused."""

    def __init__(self) -> None:
        self.client, self.refused, self.heard = Client(), list[str](), asyncio.Event()

    async def note(self, error: Exception) -> None:
        """Called for each error of the server."""
        self.refused.append(str(error).lower())
        self.heard.set()

    async def refusals(self, count: int) -> set[str]:
        """Wait for this number of refusals. Return the subjects, in lower case."""
        await self.client.flush()
        async with asyncio.timeout(SECONDS):
            while len(self.refused) < count:
                self.heard.clear()
                await self.heard.wait()
        return {each.split('"')[1] for each in self.refused}


def foreign_api(user: str) -> str:
    """Return the prefix of JetStream requests that the user does not have."""
    return API if user == OPERATOR else SYSTEM_API


@asynccontextmanager
async def connected(
    settings: Settings, keys: NatsKeys, user: str, folder: Path
) -> AsyncIterator[User]:
    assert settings.nats_url is not None
    file, found = folder / f"{user}.creds", User()
    file.write_text(keys.credentials(user))
    await found.client.connect(
        settings.nats_url, user_credentials=file, error_cb=found.note, allow_reconnect=False
    )
    yield found
    await found.client.close()


def test_the_table_names_the_processes_on_the_bus() -> None:
    without = processes(installed()).keys() - EXTENSIONS
    assert set(BUS_ACCESS) == set(PROCESSES) - {"sealer", "gateway", *without}
    assert set(EXPECTED) == set(USERS)
    own = [name for each in BUS_ACCESS.values() for name in chain(*each.consumes.values())]
    assert len(own) == len(set(own)), "a durable consumer has one owner"


@pytest.mark.parametrize("service", BUS_ACCESS)
def test_no_service_creates_or_changes_a_stream(service: str) -> None:
    """With a source or a republished subject, it could publish messages of others."""
    verbs = ("STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "STREAM.RESTORE")
    assert not [each for each in BUS_ACCESS[service].requests if each.startswith(verbs)]


def test_the_table_names_the_durables_of_the_services() -> None:
    declared = {each.name for each in (*STORES, EVIDENCE, REPORTS_DURABLE)}
    listed = {
        name
        for access in BUS_ACCESS.values()
        for stream in (REPORTS, TELEMETRY)
        for name in access.consumes.get(stream, ())
    }
    assert listed == declared


@pytest.mark.parametrize("user", USERS)
async def test_a_user_can_do_nothing_that_is_not_listed(
    settings: Settings,
    streams: JetStreamContext,
    keys: NatsKeys,
    user: str,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    attempts = {
        subject
        for operation, subjects in operations()
        for subject in subjects
        if operation not in EXPECTED[user] or subject.startswith(f"{foreign_api(user)}.")
    }
    before = await state(streams)
    async with connected(settings, keys, user, tmp_path) as attacker:
        for subject in sorted(attempts):
            await attacker.client.publish(subject, b"", reply=attacker.client.new_inbox())
        refused = await attacker.refusals(len(attempts))
    assert refused == {each.lower() for each in attempts}
    assert await state(streams) == before
    text = f"NATS, {user}: {len(refused)} of {len(attempts)} foreign operations refused"
    record_property("measured", text)


@pytest.mark.parametrize("user", USERS)
async def test_a_user_hears_only_replies(
    settings: Settings, keys: NatsKeys, user: str, tmp_path: Path
) -> None:
    async with connected(settings, keys, user, tmp_path) as attacker:
        for subject in SUBSCRIPTIONS:
            await attacker.client.subscribe(subject)
        assert await attacker.refusals(len(SUBSCRIPTIONS)) == {s.lower() for s in SUBSCRIPTIONS}


TARGETS = (
    *MESSAGES.values(),
    *(
        f"{SYSTEM_API}.STREAM.{verb}.{each}"
        for verb in ("DELETE", "PURGE")
        for each in STREAM_NAMES
    ),
    *(f"{SYSTEM_API}.CONSUMER.DELETE.{EVENTS}.{each}" for each in DURABLES[EVENTS]),
)
"""Subjects to which an attacker would like the server to send something."""


async def contents(js: JetStreamContext) -> dict[str, object]:
    """Return the number of messages and the names of the durable consumers of each stream."""
    found = await state(js)
    return {name: (each[1], each[2], sorted(each[3])) for name, each in found.items()}  # type: ignore[index]


@pytest.mark.parametrize("user", [*BUS_ACCESS, SUBSCRIBER])
async def test_a_made_up_reply_subject_reaches_no_other_account(
    settings: Settings, streams: JetStreamContext, keys: NatsKeys, user: str, tmp_path: Path
) -> None:
    """JetStream sends responses, and messages of a stream, to any reply subject of a request."""
    harmless = ("STREAM.INFO", "STREAM.MSG.GET", "CONSUMER.INFO", "CONSUMER.MSG.NEXT")
    requests = [each for each in EXPECTED[user] if each.startswith(harmless)]
    assert requests
    before = await contents(streams)
    async with connected(settings, keys, user, tmp_path) as attacker:
        for request in requests:
            body = {"last_by_subj": ">"} if "MSG.GET" in request else {"batch": 9, "no_wait": True}
            content = b"" if request.endswith("INFO") else json.dumps(body).encode()
            for target in TARGETS:
                await attacker.client.publish(f"{API}.{request}", content, reply=target)
        if "publish events" not in EXPECTED[user]:
            js = attacker.client.jetstream(prefix=API)
            (stream, name) = next(
                each.split(".")[-2:] for each in requests if each.startswith("CONSUMER.INFO")
            )
            assert (await js.consumer_info(stream, name)).name == name
        assert attacker.refused == []
    await streams.account_info()  # the server has processed all requests
    assert await contents(streams) == before


@pytest.mark.parametrize("user", ["billing", "datasets", SUBSCRIBER])
async def test_a_consumer_delivers_to_no_other_account(
    settings: Settings, streams: JetStreamContext, keys: NatsKeys, user: str, tmp_path: Path
) -> None:
    name = "someone-else" if user == SUBSCRIBER else user
    before = await contents(streams)
    async with connected(settings, keys, user, tmp_path) as attacker:
        js = attacker.client.jetstream(prefix=API)
        for target in TARGETS:
            with suppress(NotFoundError):
                await js.delete_consumer(EVENTS, name)
            config = api.ConsumerConfig(deliver_subject=target, filter_subject="events.>")
            config.durable_name = name
            config.name = name if user == SUBSCRIBER else None
            with suppress(APIError):  # the server refuses some targets
                await js.add_consumer(EVENTS, config)
        with suppress(NotFoundError):
            await js.delete_consumer(EVENTS, name)
        config = Durable(name, EVENTS, "events.>").config
        config.name = name if user == SUBSCRIBER else None
        await js.add_consumer(EVENTS, config)
        (message,) = await (await js.pull_subscribe_bind(name, EVENTS)).fetch(1, SECONDS)
        assert message.data == b"{}"
    assert await contents(streams) == before


async def test_a_request_cannot_name_another_consumer_than_its_subject(
    settings: Settings, streams: JetStreamContext, keys: NatsKeys, tmp_path: Path
) -> None:
    before = await state(streams)
    async with connected(settings, keys, "datasets", tmp_path) as attacker:
        for stream, name in ((EVENTS, "billing"), (REPORTS, "datasets"), (EVENTS, "new")):
            config = {"durable_name": name, "name": name, "ack_policy": "explicit"}
            body = json.dumps({"stream_name": stream, "config": config}).encode()
            subject = f"{API}.CONSUMER.DURABLE.CREATE.{EVENTS}.datasets"
            reply = await attacker.client.request(subject, body, timeout=SECONDS)
            assert "error" in json.loads(reply.data)
    assert await state(streams) == before


def as_user(settings: Settings, keys: NatsKeys, user: str, folder: Path) -> Settings:
    """Return settings whose credentials are a directory with only this user's."""
    (folder / f"{user}.creds").write_text(keys.credentials(user))
    return settings.model_copy(update={"nats_credentials": folder})


@pytest.mark.parametrize("user", BUS_ACCESS)
async def test_a_service_provisions_publishes_and_consumes(
    settings: Settings, js: JetStreamContext, keys: NatsKeys, user: str, tmp_path: Path
) -> None:
    """Also after its durable consumers were deleted."""
    access, broker = BUS_ACCESS[user], broker_of(as_user(settings, keys, user, tmp_path), user)
    durables = tuple(
        Durable(name, stream, ">") for stream, names in access.consumes.items() for name in names
    )
    provisioned = Provisioned(broker, durables)
    await provision(js, ())
    for _ in range(2):
        created = [f"consumer {each.name} created" for each in durables]
        assert await provisioned.provision() == created
        assert await provisioned.provision() == []
        for subject in access.publishes:
            sent = MESSAGES[subject.partition(".")[0]]
            assert (await (await broker.jetstream()).publish(sent, b"{}")).seq > 0
        for subject in MESSAGES.values():
            await js.publish(subject, b"{}")
        for each in durables:
            pulled = await (await broker.jetstream()).pull_subscribe_bind(each.name, each.stream)
            (message,) = await pulled.fetch(1, SECONDS)
            await message.ack_sync(SECONDS)
            info = await js.consumer_info(each.stream, each.name)
            assert info.ack_floor is not None
            assert info.ack_floor.consumer_seq == 1
        for each in durables:
            await js.delete_consumer(each.stream, each.name)
    await broker.stop()


async def test_a_service_names_the_missing_stream_of_another_one(
    settings: Settings, js: JetStreamContext, keys: NatsKeys, tmp_path: Path
) -> None:
    broker = broker_of(as_user(settings, keys, "billing", tmp_path), "billing")
    with pytest.raises(StreamMissing, match=r"lacks the stream REPORTS. Run `python -m deploy"):
        await Provisioned(broker, (EVIDENCE,)).provision()
    await broker.stop()


def test_a_service_without_its_credentials_file_names_the_setting(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=r"relay\.creds: No such file.*NATS_CREDENTIALS"):
        broker_of(settings.model_copy(update={"nats_credentials": tmp_path}), "relay")


@contextmanager
def running_nats(keys: NatsKeys, folder: Path) -> Iterator[str]:
    """Run a server with these keys. Yield its URL."""
    port, config, log = free_port(), folder / "nats.conf", folder / "log"
    config.write_text(configuration(keys, folder / "jetstream", port))
    process = subprocess.Popen([str(binary()), "--config", str(config), "--log", str(log)])
    try:
        eventually(lambda: log.exists() and "Server is ready" in log.read_text())
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def test_the_user_that_all_services_shared_is_revoked(tmp_path: Path) -> None:
    keys = NatsKeys()
    shared = tmp_path / "services.creds"
    jwt = user_jwt(keys.services, keys.services_user, "services")
    shared.write_text(credentials_file(jwt, keys.services_user))
    with running_nats(keys, tmp_path) as url:
        with pytest.raises(NatsError):
            await nats.connect(url, user_credentials=shared, allow_reconnect=False)
