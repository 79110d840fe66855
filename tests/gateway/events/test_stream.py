"""The event stream: missed events first, then new ones, then its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gateway.backend import open_backend
from gateway.events import api as events
from gateway.events import feed as event_feed
from gateway.events.feed import EventFeed, FeedEvent
from gateway.http import streaming
from infrastructure.settings import Settings
from projections.account_events import EventFilter
from tests.builders.examples import ACCOUNT_ID
from tests.builders.platform import Platform
from tests.gateway.conftest import running_gateway
from tests.gateway.events.test_api import STREAM, TRAINS, names, page
from tests.gateway.jobs.owners import Owner
from tests.logs import grow, leave_hole, notifications
from tests.polling import eventually


def received(socket: WebSocketTestSession, count: int) -> list[dict[str, Any]]:
    return [socket.receive_json() for _ in range(count)]


def refusal(client: TestClient, query: str = "", **handshake: Any) -> tuple[int, str]:
    """Return the close code and reason of a refused socket."""
    with client.websocket_connect(f"{STREAM}{query}", **handshake) as socket:
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    return closed.value.code, closed.value.reason


def test_missed_events_are_sent_before_new_ones(client: TestClient, platform: Platform) -> None:
    owner = Owner(client, platform)
    missed = page(client, owner.person)["data"]
    after = missed[1]["sequence"]
    with client.websocket_connect(
        f"{STREAM}?after={after}", headers=owner.person.headers
    ) as socket:
        assert received(socket, len(missed) - 2) == missed[2:]
        platform.credit(platform.person(), 5)
        owner.train()
        live = received(socket, 4)
    assert live == page(client, owner.person, after=missed[-1]["sequence"])["data"]
    assert names(live) == [*TRAINS[1:], "CheckpointSaved"]


def test_a_stream_of_one_job(client: TestClient, platform: Platform) -> None:
    owner = Owner(client, platform)
    job = owner.path.rpartition("/")[2]
    with client.websocket_connect(f"{STREAM}?job={job}", headers=owner.person.headers) as socket:
        platform.credit(owner.person, 5)
        owner.train(checkpoint=None)
        assert names(received(socket, 4)) == TRAINS


def test_a_browser_sends_its_key_as_a_subprotocol(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    offered = ["ecolink.events", f"ecolink.key.{person.key}"]
    with client.websocket_connect(STREAM, subprotocols=offered) as socket:
        assert socket.accepted_subprotocol == "ecolink.events"
        assert names(received(socket, 2)) == ["AccountOpened", "ApiKeyIssued"]


def test_a_refused_socket_has_a_close_code(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    assert refusal(client)[0] == 4401
    assert refusal(client, headers={"authorization": "Bearer eco_wrong"})[0] == 4401
    headers = person.headers
    assert refusal(client, "?all_accounts=true", headers=headers)[0] == 4403
    assert refusal(client, f"?job=ftjob-{uuid4().hex}", headers=headers)[0] == 4404
    code, reason = refusal(client, "?after=x", headers=headers)
    assert code == 4422
    assert reason.startswith("after: ")
    assert refusal(client, "?after=1000000", headers=headers)[0] == 4422


def test_a_stream_ends_when_its_key_is_revoked(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    with client.websocket_connect(STREAM, headers=person.headers) as socket:
        received(socket, 2)
        platform.revoke(person)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 4401


def test_a_key_that_is_revoked_while_its_stream_opens_gets_none(
    client: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = platform.person()
    assert isinstance(client.app, FastAPI)
    admitted, feed = events._admitted, client.app.state.feed

    def revoked_behind(*asking: Any) -> Any:
        admission = admitted(*asking)
        platform.revoke(person)
        head = platform.log.recorder.max_notification_id()
        eventually(lambda: feed.position >= head)  # no client follows yet
        return admission

    monkeypatch.setattr(events, "_admitted", revoked_behind)
    assert refusal(client, headers=person.headers)[0] == 4401


class Stalled:
    """A socket whose client reads three messages and then stops."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.closed: tuple[int, str] | None = None

    async def send_text(self, text: str) -> None:
        if len(self.taken) == 3:
            await asyncio.Event().wait()
        self.taken.append(text)

    async def close(self, code: int, reason: str) -> None:
        self.closed = code, reason


@asynccontextmanager
async def following(settings: Settings) -> AsyncIterator[EventFeed]:
    """A feed that follows the log."""
    with open_backend(settings) as backend:
        feed = EventFeed(backend)
        task = asyncio.create_task(feed.run())
        try:
            yield feed
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_a_stalled_client_is_closed_with_its_position(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.05)
    grow(platform.log, 10)
    socket = Stalled()
    async with following(platform.settings) as feed:
        with feed.follow(EventFilter(ACCOUNT_ID), 0, uuid4()) as follower:
            await events._send(socket, feed, follower)  # type: ignore[arg-type]
    third = json.loads(socket.taken[2])["sequence"]
    assert socket.closed == (4408, f"too slow; continue with after={third}")


async def test_a_stopping_gateway_closes_with_the_position(platform: Platform) -> None:
    grow(platform.log, 2)
    socket = Stalled()
    async with following(platform.settings) as feed:
        with feed.follow(EventFilter(ACCOUNT_ID), 0, uuid4()) as follower:
            sending = asyncio.create_task(events._send(socket, feed, follower))  # type: ignore[arg-type]
            await asyncio.to_thread(eventually, lambda: len(socket.taken) == 2)
            feed.close()
            await sending
    last = json.loads(socket.taken[1])["sequence"]
    assert socket.closed == (1012, events.GOODBYE.format(last))


async def test_clients_far_behind_miss_no_event(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three clients of different speed on a feed that keeps fewer events than they miss."""
    monkeypatch.setattr(event_feed, "KEPT_EVENTS", 10)
    monkeypatch.setattr(event_feed, "BATCH_EVENTS", 7)
    total, stranger = 150, uuid4()
    grow(platform.log, 20)

    async def follow(feed: EventFeed, after: int, limit: int, rest_seconds: float) -> list[int]:
        found: list[int] = []
        with feed.follow(EventFilter(ACCOUNT_ID), after, uuid4()) as follower:
            while len(found) < total:
                page = await follower.next_page(limit, None)
                found += [told.sequence for told in page.events]
                await asyncio.sleep(rest_seconds)
        return found

    def write() -> None:
        for n in range(13):
            grow(platform.log, 9 if n else 22)
            grow(platform.log, 5, stranger)
            leave_hole(platform.log)
            if n % 4 == 0:
                platform.project()

    async with following(platform.settings) as feed:
        clients = [
            asyncio.create_task(follow(feed, 0, limit, rest))
            for limit, rest in ((500, 0), (3, 0.001), (40, 0.05))
        ]
        await asyncio.to_thread(write)
        got = [await each for each in clients]
    expected = everything_of(platform, ACCOUNT_ID)
    assert feed.floor > expected[20]  # the feed dropped old events
    assert [each[:total] for each in got] == [expected[:total]] * 3


@pytest.mark.full
def test_a_restarted_gateway_continues_at_the_position(
    platform: Platform, projecting: None
) -> None:
    person, found = platform.person(), list[int]()
    for credits in (3, 4):
        for _ in range(credits):
            platform.credit(person, 1)
        with running_gateway(platform.settings) as gateway:
            url = gateway.url.replace("http", "ws", 1) + f"{STREAM}?after={(found or [0])[-1]}"
            with connect(url, additional_headers=person.headers) as socket:
                platform.credit(person, 1)
                while len(found) < len(everything_of(platform, person.account_id)):
                    found.append(json.loads(socket.recv(timeout=60))["sequence"])
                gateway.process.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed):
                    socket.recv(timeout=60)
                assert socket.close_code == 1012
                assert socket.close_reason == events.GOODBYE.format(found[-1])
    assert found == everything_of(platform, person.account_id)


def everything_of(platform: Platform, account_id: UUID) -> list[int]:
    """Return the sequences of all events of an account."""
    return [
        each.id
        for each in notifications(platform.log)
        if json.loads(each.state)["account_id"] == str(account_id)
    ]


class Broken:
    """A listener that raises an error."""

    def tell(self, batch: Sequence[FeedEvent], revoked_keys: Collection[UUID]) -> None:
        raise KeyError(len(batch))

    def wake(self) -> None:
        """Do nothing."""


async def test_a_failing_listener_does_not_affect_others(
    settings: Settings, platform: Platform
) -> None:
    person = platform.person()
    async with following(settings) as feed:
        await feed.follows.wait()
        nobody = EventFilter(uuid4())
        with contextlib.ExitStack() as stack:
            followers = []
            for _ in range(10):  # in any order of listeners
                stack.enter_context(feed.tells(Broken()))
                followers.append(
                    stack.enter_context(feed.follow(nobody, feed.position, person.key_id))
                )
            await asyncio.to_thread(platform.revoke, person)
            async with asyncio.timeout(20):
                for follower in followers:
                    await follower.next_page(1, None)
        assert all(follower.revoked for follower in followers)
