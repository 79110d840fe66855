"""Requests to a receiver, and addresses that EcoLink does not connect to."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from openai import OpenAI

from domain.core.target import Address, TargetPolicy, parsed_networks
from extensions.notifications.domain.message import Message, WebhookType
from extensions.notifications.domain.signature import new_signing_secret
from extensions.notifications.webhooks import sender
from extensions.notifications.webhooks.deliveries import Attempt, Due
from extensions.notifications.webhooks.sender import EXCERPT_BYTES, Sender
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID
from tests.extensions.notifications.receiving import Receiver
from tests.polling import eventually, eventually_async

LOCAL = TargetPolicy(parsed_networks("127.0.0.0/8"), http=True)
OPEN = TargetPolicy(http=True)
SECRET = new_signing_secret()


def due(url: str) -> Due:
    type = WebhookType.JOB_CANCELLED
    message = Message("evt_1", ACCOUNT_ID, type, NOW, {"id": "ftjob-1"}, "1")
    return Due(1, uuid4(), ACCOUNT_ID, url, [SECRET], message.id, message.body)


def resolved(*addresses: str) -> Any:
    """Return a resolver with a constant answer."""

    async def resolve(host: str, port: int) -> list[Address]:
        return [ip_address(each) for each in addresses]

    return resolve


async def send(url: str, policy: TargetPolicy = LOCAL, resolve: Any = None) -> Attempt:
    made = Sender(policy, resolve)
    try:
        return await made.send(due(url))
    finally:
        await made.aclose()


async def connected(receiver: Receiver) -> None:
    """Wait until the receiver listens."""

    async def answers() -> bool:
        return (await send(receiver.url)).error is None

    await eventually_async(answers)


async def test_the_openai_client_unwraps_a_request(receiver: Receiver) -> None:
    await connected(receiver)
    attempt = await send(f"{receiver.url}/hooks?token=x")
    assert (attempt.status_code, attempt.error) == (200, None)
    request = eventually(receiver.received)[-1]
    assert request.path == "/hooks?token=x"
    event = OpenAI(api_key="unused").webhooks.unwrap(request.body, request.headers, secret=SECRET)
    assert (event.type, event.id) == ("fine_tuning.job.cancelled", "evt_1")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("EcoLink/")


async def test_the_excerpt_is_short_and_has_no_control_characters(receiver: Receiver) -> None:
    await connected(receiver)
    attempt = await send(receiver.url)
    assert attempt.excerpt is not None
    assert attempt.excerpt.startswith("[2Jreceived")
    assert len(attempt.excerpt) <= EXCERPT_BYTES
    assert attempt.excerpt.isprintable()


async def test_a_status_other_than_2xx_is_a_failure(
    receiver: Receiver, subtests: pytest.Subtests
) -> None:
    await connected(receiver)
    for status, reason in (
        (302, "does not follow redirects"),
        (404, "Status 404"),
        (410, "no more"),
        (500, "500"),
    ):
        with subtests.test(str(status)):
            attempt = await send(f"{receiver.url}/status/{status}")
            assert attempt.status_code == status
            assert attempt.error is not None
            assert reason in attempt.error


async def test_a_receiver_requests_a_delay(receiver: Receiver, subtests: pytest.Subtests) -> None:
    await connected(receiver)
    for status, header, delay in (
        (429, "120", 120),
        (503, "9" * 40, 999_999_999),
        (503, "soon", None),
        (503, "-5", None),
        (503, "Sat, 28 Nov 2020 06:00:00 GMT", 0),
        (500, "120", None),
    ):
        with subtests.test(f"{status} {header}"):
            attempt = await send(f"{receiver.url}/status/{status}?after={quote(header)}")
            assert attempt.retry_after == (None if delay is None else timedelta(seconds=delay))


async def test_a_requested_time_becomes_a_delay(receiver: Receiver) -> None:
    await connected(receiver)
    at = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    attempt = await send(f"{receiver.url}/status/503?after={quote(at)}")
    assert attempt.retry_after is not None
    assert timedelta(hours=1) < attempt.retry_after <= timedelta(hours=2)


async def test_a_host_name_is_connected_at_its_checked_address(receiver: Receiver) -> None:
    """No second look-up follows, so a name server cannot change the answer after the check."""
    await connected(receiver)
    url = f"http://hooks.example:{receiver.port}/x"
    attempt = await send(url, resolve=resolved("127.0.0.1"))
    assert attempt.error is None
    assert receiver.received()[-1].headers["host"] == f"hooks.example:{receiver.port}"


async def test_the_next_address_is_tried_if_one_refuses(receiver: Receiver) -> None:
    await connected(receiver)
    url = f"http://hooks.example:{receiver.port}/x"
    attempt = await send(url, resolve=resolved("127.0.0.9", "127.0.0.1"))
    assert attempt.error is None


async def unknown_name() -> str:
    """Return the error of a name that does not exist. That of a private address is the same."""

    async def fails(host: str, port: int) -> list[Address]:
        raise OSError("Name or service not known")

    error = (await send("http://hooks.example/", OPEN, fails)).error
    assert error is not None
    return error


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("1.1.1.1", "10.0.0.1"), ("::ffff:169.254.169.254",), ("64:ff9b::7f00:1",)],
)
async def test_a_name_with_an_address_that_is_not_public_is_not_connected(
    receiver: Receiver, addresses: tuple[str, ...]
) -> None:
    await connected(receiver)
    before = len(receiver.received())
    url = f"http://hooks.example:{receiver.port}/x"
    attempt = await send(url, OPEN, resolved(*addresses))
    assert attempt.error is not None
    assert not any(each in attempt.error for each in addresses)
    assert attempt.error == await unknown_name()
    assert len(receiver.received()) == before


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1", "0"])
async def test_other_spellings_of_the_loopback_address_are_not_connected(host: str) -> None:
    attempt = await send(f"http://{host}:8080/", OPEN)
    assert attempt.status_code is None
    assert attempt.error == (await unknown_name()).replace("hooks.example", host)


async def test_a_changed_policy_applies_to_old_endpoints() -> None:
    attempt = await send("http://hooks.example/?token=x", TargetPolicy(), resolved("1.1.1.1"))
    assert attempt.error is not None
    assert "no longer permits" in attempt.error
    assert "token" not in attempt.error, "keys without the scope `keys` see only the origin"


async def test_nothing_is_sent_without_a_secret(receiver: Receiver) -> None:
    await connected(receiver)
    before = len(receiver.received())
    made = Sender(LOCAL)
    attempt = await made.send(replace(due(receiver.url), secrets=[]))
    await made.aclose()
    assert attempt.error is not None
    assert "no secret" in attempt.error
    assert len(receiver.received()) == before


async def test_an_endpoint_that_never_responds_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(sender, "TOTAL_SECONDS", 0.2)
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        attempt = await send(f"http://127.0.0.1:{port}/")
    assert attempt.status_code is None
    assert attempt.error is not None
    assert "No response" in attempt.error


async def test_an_endless_response_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        except OSError:
            writer.close()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        attempt = await send(f"http://127.0.0.1:{port}/")
    assert (attempt.status_code, attempt.error) == (200, None)
    assert attempt.excerpt == "x" * EXCERPT_BYTES
