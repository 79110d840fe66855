"""A trainer's NATS credentials on a real server: its own work succeeds, the rest is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from uuid import UUID

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from infrastructure.bus.keys import signer
from infrastructure.bus.streams import CONTROL, EVENTS, REPORTS, TELEMETRY, connect, provision
from infrastructure.settings import Settings
from infrastructure.training.reports import Credentials, control_subject
from infrastructure.training.segment_credentials import CredentialIssuer, inbox_prefix
from tests.builders.examples import ACCOUNT_ID, JOB_ID

OTHER_ACCOUNT, OTHER_JOB = (
    UUID(int=1),
    UUID(int=2),
)  # all workers need equal test ids
OWN = f"{ACCOUNT_ID}.{JOB_ID}.1"
OTHERS = [
    f"{OTHER_ACCOUNT}.{OTHER_JOB}.1",
    f"{ACCOUNT_ID}.{OTHER_JOB}.1",
    f"{ACCOUNT_ID}.{JOB_ID}.2",
]
DENIED_SECONDS = 60.0


class Trainer:
    """A connection with a segment's credentials, and the errors that the server sends it."""

    def __init__(self) -> None:
        self.client, self.closed = Client(), asyncio.Event()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()

    async def note_closed(self) -> None:
        """Called when either side closes the connection."""
        self.closed.set()

    async def is_refused(self, action: Coroutine[Any, Any, object]) -> str:
        """Do something that the server refuses, and return its error."""
        await action
        await self.client.flush()
        return str(await asyncio.wait_for(self.errors.get(), DENIED_SECONDS)).lower()


@pytest.fixture
def issuer(settings: Settings) -> CredentialIssuer:
    issuer = CredentialIssuer.of(settings)
    assert issuer is not None
    return issuer


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Client]:
    """The services' connection, with the declared streams."""
    client = await connect(settings)
    await provision(client.jetstream(), ())
    yield client
    await client.close()


async def connected(
    settings: Settings, credentials: Credentials, job_id: UUID = JOB_ID, segment: int = 1
) -> Trainer:
    assert settings.nats_url is not None
    trainer = Trainer()
    await trainer.client.connect(
        settings.nats_url,
        user_jwt_cb=lambda: bytearray(credentials.jwt.encode()),
        signature_cb=signer(credentials.seed),
        inbox_prefix=inbox_prefix(job_id, segment),
        error_cb=trainer.errors.put,
        closed_cb=trainer.note_closed,
        allow_reconnect=False,
    )
    return trainer


@pytest.fixture
async def trainer(
    settings: Settings, services: Client, issuer: CredentialIssuer
) -> AsyncIterator[Trainer]:
    found = await connected(settings, issuer.issue(ACCOUNT_ID, JOB_ID, 1))
    yield found
    await found.client.close()


async def test_a_trainer_reports_and_reads_its_own_control(
    trainer: Trainer, services: Client
) -> None:
    jetstream = trainer.client.jetstream()
    for kind, stream in (
        ("reports", REPORTS),
        ("telemetry", TELEMETRY),
        ("evaluations", TELEMETRY),
        ("logs", TELEMETRY),
    ):
        ack = await jetstream.publish(f"{kind}.{OWN}", b"{}", headers={"Nats-Msg-Id": kind})
        assert ack.stream == stream
    with pytest.raises(NotFoundError):
        await jetstream.get_last_msg(CONTROL, control_subject(JOB_ID, 1), direct=True)
    for content in (b"first", b"second"):
        await services.jetstream().publish(control_subject(JOB_ID, 1), content)
        last = await jetstream.get_last_msg(CONTROL, control_subject(JOB_ID, 1), direct=True)
        assert last.data == content
    assert trainer.errors.empty()


@pytest.mark.parametrize(
    "subject",
    [
        *(
            ">",
            "*.>",
            "_INBOX.>",
            f"{inbox_prefix(OTHER_JOB, 1)}.>",
            f"{inbox_prefix(JOB_ID, 2)}.>",
        ),
        *("events.>", "reports.>", f"reports.{OWN}", "evidence.>", "telemetry.>", "logs.>"),
        *("control.>", control_subject(JOB_ID, 1), control_subject(OTHER_JOB, 1)),
        *("$JS.>", "$JS.API.>", "$JS.EVENT.>", "$JS.ACK.>", "$SYS.>", "_R_.>"),
    ],
)
async def test_a_trainer_subscribes_only_to_its_own_inbox(trainer: Trainer, subject: str) -> None:
    refused = await trainer.is_refused(trainer.client.subscribe(subject))
    assert "permissions violation for subscription" in refused


@pytest.mark.parametrize(
    "subject",
    [
        *(f"{kind}.{other}" for other in OTHERS for kind in ("reports", "telemetry", "logs")),
        *(f"evaluations.{OTHERS[0]}", f"evidence.{OWN}", f"events.{ACCOUNT_ID}.Job.1.x"),
        *(control_subject(JOB_ID, 1), control_subject(OTHER_JOB, 1)),
        f"$JS.API.DIRECT.GET.{CONTROL}.{control_subject(OTHER_JOB, 1)}",
        f"$JS.API.DIRECT.GET.{CONTROL}.{control_subject(JOB_ID, 2)}",
        *(f"$JS.API.DIRECT.GET.{CONTROL}", f"$JS.API.DIRECT.GET.{REPORTS}.reports.{OWN}"),
        *(f"$JS.API.STREAM.MSG.GET.{name}" for name in (EVENTS, REPORTS, CONTROL)),
        *(f"$JS.API.STREAM.{verb}.{EVENTS}" for verb in ("INFO", "DELETE", "PURGE", "UPDATE")),
        *(f"$JS.API.STREAM.{verb}.{CONTROL}" for verb in ("INFO", "DELETE", "PURGE", "CREATE")),
        *("$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST"),
        f"$JS.API.CONSUMER.CREATE.{CONTROL}",
        f"$JS.API.CONSUMER.CREATE.{CONTROL}.x.{control_subject(OTHER_JOB, 1)}",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{REPORTS}.x",
        f"$JS.API.CONSUMER.MSG.NEXT.{REPORTS}.scheduler-reports",
        f"$JS.ACK.{REPORTS}.scheduler-reports.1.1.1.1.0",
        *("$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING", "_INBOX.x.y"),
    ],
)
async def test_a_trainer_publishes_only_under_its_own_subjects(
    trainer: Trainer, services: Client, subject: str
) -> None:
    refused = await trainer.is_refused(trainer.client.publish(subject, b"{}"))
    assert "permissions violation for publish" in refused
    for stream in (EVENTS, REPORTS, TELEMETRY, CONTROL):
        assert (await services.jetstream().stream_info(stream)).state.messages == 0


async def test_a_trainer_receives_no_message_of_others(
    settings: Settings, services: Client, issuer: CredentialIssuer, trainer: Trainer
) -> None:
    """Services read the whole event stream, and another segment reports."""
    heard: list[str] = []

    async def note(message: Any) -> None:
        heard.append(message.subject)

    for prefix in (inbox_prefix(JOB_ID, 1), inbox_prefix(OTHER_JOB, 1), "_INBOX"):
        await trainer.client.subscribe(f"{prefix}.>", cb=note)
    other = await connected(settings, issuer.issue(OTHER_ACCOUNT, OTHER_JOB, 1), OTHER_JOB)
    jetstream = services.jetstream()
    for n in range(25):
        await jetstream.publish(f"events.{OTHER_ACCOUNT}.Job.{n}.JobApproved", b"{}")
        await other.client.jetstream().publish(f"reports.{OTHERS[0]}", b"{}")
    reader = await jetstream.pull_subscribe("events.>", "reader", stream=EVENTS)
    assert len(await reader.fetch(25, timeout=DENIED_SECONDS)) == 25
    await trainer.client.jetstream().publish(f"reports.{OWN}", b"{}")
    await trainer.client.flush()
    await other.client.close()
    assert heard == [] or all(each.startswith(f"{inbox_prefix(JOB_ID, 1)}.") for each in heard)
    assert len(heard) <= 1, "the acknowledgement of its own report"


async def test_a_reply_cannot_be_redirected_to_another_subject(
    trainer: Trainer, services: Client
) -> None:
    """The server replies to a report on its reply subject, whatever the permissions."""
    jetstream = services.jetstream()
    for reply in (f"events.{ACCOUNT_ID}.Job.1.x", control_subject(OTHER_JOB, 1), "evidence.a.b.1"):
        await trainer.client.publish(f"reports.{OWN}", b"{}", reply=reply)
    await trainer.client.jetstream().publish(f"reports.{OWN}", b"{}")
    reports = await jetstream.stream_info(REPORTS, subjects_filter=">")
    assert reports.state.subjects == {f"reports.{OWN}": 4}
    for stream in (EVENTS, CONTROL):
        assert (await jetstream.stream_info(stream)).state.messages == 0


async def connect_until_refused(settings: Settings, given: Credentials) -> None:
    """Connect with the same credentials until the server refuses them."""
    deadline = asyncio.get_running_loop().time() + DENIED_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        trainer = await connected(settings, given)
        await trainer.client.close()


async def test_expired_credentials_end_the_connection_and_a_renewed_jwt_reconnects(
    settings: Settings, services: Client, issuer: CredentialIssuer
) -> None:
    short = CredentialIssuer(issuer.seed, issuer.account, valid_seconds=2.0)
    given = short.issue(ACCOUNT_ID, JOB_ID, 1)
    trainer = await connected(settings, given)
    await asyncio.wait_for(trainer.closed.wait(), DENIED_SECONDS)
    # The server compares whole seconds: it accepts the JWT until its expiry second has passed.
    with pytest.raises(NatsError):
        await connect_until_refused(settings, given)
    renewed = issuer.issue(ACCOUNT_ID, JOB_ID, 1)
    assert renewed.seed == given.seed
    again = await connected(settings, renewed.model_copy(update={"seed": given.seed}))
    assert (await again.client.jetstream().publish(f"reports.{OWN}", b"{}")).stream == REPORTS
    await again.client.close()


@pytest.mark.parametrize(
    "changed",
    [
        lambda given, other: given.model_copy(update={"seed": other.seed}),
        lambda given, other: given.model_copy(update={"jwt": given.jwt[:-4] + "AAAA"}),
    ],
    ids=["another key", "another signature"],
)
async def test_a_jwt_without_its_key_or_signature_is_refused(
    settings: Settings,
    services: Client,
    issuer: CredentialIssuer,
    changed: Callable[[Credentials, Credentials], Credentials],
) -> None:
    given, other = issuer.issue(ACCOUNT_ID, JOB_ID, 1), issuer.issue(ACCOUNT_ID, JOB_ID, 2)
    with pytest.raises(NatsError):
        await connected(settings, changed(given, other))


async def test_a_connection_without_credentials_is_refused(settings: Settings) -> None:
    assert settings.nats_url is not None
    with pytest.raises(NatsError):
        await nats.connect(settings.nats_url, allow_reconnect=False)
