"""A trainer's credentials on real servers: its own work succeeds, 30 other attempts are refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from obstore.exceptions import BaseError, PermissionDeniedError

from infrastructure.artifacts.object_stores import s3_location
from infrastructure.artifacts.s3_requests import DATE, S3Refused, Signer
from infrastructure.artifacts.store import PART_BYTES, Artifacts
from infrastructure.bus.keys import signer
from infrastructure.bus.streams import CONTROL, EVENTS, REPORTS, connect, provision
from infrastructure.settings import Settings
from infrastructure.training.reports import Credentials, StoreCredentials, control_subject
from infrastructure.training.segment_credentials import CredentialIssuer, inbox_prefix
from infrastructure.training.store_credentials import (
    LONGEST_SECONDS,
    SHORTEST_SECONDS,
    StoreIssuer,
    required_store_issuer,
    session_policy,
)
from services.scheduler.segment_spec import store_access
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID, PLAN
from tests.object_store import ROLE, SIGNING_KEY, ObjectStore

OTHER_ACCOUNT, OTHER_JOB = UUID(int=1), UUID(int=2)
HOME, OTHER = f"jobs/{ACCOUNT_ID}/{JOB_ID}", f"jobs/{OTHER_ACCOUNT}/{OTHER_JOB}"
DENIED_SECONDS = 60.0

READABLE = (
    PLAN.dataset_ref,
    f"{PLAN.base_ref}/manifest.json",
    f"{HOME}/checkpoints/segment-1/step-1/manifest.json",
)
FOREIGN = (
    f"{OTHER}/checkpoints/segment-1/step-1/manifest.json",
    f"jobs/{ACCOUNT_ID}/{OTHER_JOB}/adapter/segment-1/manifest.json",
    f"{HOME}/logs/segment-1.log",
    f"{PLAN.base_ref}-other/manifest.json",
    f"{PLAN.dataset_ref}-other",
    f"uploads/{ACCOUNT_ID}/one.jsonl",
    "seals/heads/1",
)


@pytest.fixture
def stored(s3_url: str) -> Artifacts:
    """The artifacts as the services see them."""
    artifacts = Artifacts(s3_url)
    for ref in (*READABLE, *FOREIGN):
        artifacts.put(ref, ref.encode())
    return artifacts


@pytest.fixture
def keys(s3_url: str, stored: Artifacts) -> StoreCredentials:
    """Keys of segment 2 of the job."""
    issuer = StoreIssuer(s3_url, ROLE, SHORTEST_SECONDS)
    return issuer.issue(JOB_ID, 2, store_access(second_segment()))


def second_segment() -> Any:
    from domain.jobs.job import Job

    with command():
        job = Job.approve(JOB_ID, ACCOUNT_ID, PLAN, ESTIMATE)
        job.allocate_segment(1)
    job.segment = 2
    return job


def content_of(artifacts: Artifacts) -> dict[str, bytes]:
    return {ref: artifacts.get(ref) for ref in artifacts.list("")}


def test_a_trainer_reads_its_files_and_writes_its_folders(
    s3_url: str, stored: Artifacts, keys: StoreCredentials, tmp_path: Path
) -> None:
    own = Artifacts(s3_url, credentials=keys.for_obstore)
    assert [own.get(ref).decode() for ref in READABLE] == list(READABLE)
    source = tmp_path / "checkpoint"
    source.mkdir()
    (source / "large").write_bytes(bytes(2 * PART_BYTES))
    own.put_directory(f"{HOME}/checkpoints/segment-2/step-2", source)
    own.put_directory(f"{HOME}/adapter/segment-2", source)
    own.get_directory(f"{HOME}/checkpoints/segment-2/step-2", tmp_path / "copy")
    with pytest.raises((FileNotFoundError, PermissionDeniedError)):
        own.get(f"{HOME}/checkpoints/segment-1/step-9/manifest.json")


class Requests:
    """Requests to the store with given keys, below the folder of the test."""

    def __init__(self, store: ObjectStore, url: str, keys: StoreCredentials) -> None:
        self._endpoint, self._keys = store.endpoint, keys
        self.bucket, self.prefix = s3_location(url)

    def send(
        self, method: str, ref: str | None, query: str = "", body: bytes = b"", **headers: str
    ) -> httpx.Response:
        """Send a signed request for a ref, or for the bucket if it is None."""
        path = self.bucket if ref is None else f"{self.bucket}/{self.prefix}/{ref}"
        url = f"{self._endpoint}/{quote(path)}" + (f"?{query}" if query else "")
        keys = self._keys
        sent = {name.replace("_", "-"): value for name, value in headers.items()} | {
            "host": self._endpoint.removeprefix("http://"),
            "x-amz-date": f"{datetime.now(UTC):{DATE}}",
            "x-amz-content-sha256": hashlib.sha256(body).hexdigest(),
            "x-amz-security-token": keys.session_token,
        }
        signed = Signer(keys.access_key_id, keys.secret_access_key, "us-east-1", "s3")
        sent["authorization"] = signed.authorization(method, url, sent, body)
        return httpx.request(method, url, headers=sent, content=body)

    def refused(
        self, method: str, ref: str | None, query: str = "", body: bytes = b"", **headers: str
    ) -> str:
        """Return the code of the refusal. An answer without one fails the test."""
        answer = self.send(method, ref, query, body, **headers)
        found = re.search("<Code>(.*?)</Code>", answer.text)
        assert found, answer.text
        return f"{answer.status_code} {found[1]}"


def expired(keys: StoreCredentials) -> StoreCredentials:
    """Return the keys as if they had been issued an hour earlier, with a valid signature."""

    def encoded(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    head, claims, signature = keys.session_token.split(".")
    key = SIGNING_KEY
    expected = encoded(hmac.digest(key, f"{head}.{claims}".encode(), "sha256"))
    assert signature == expected, "the test cannot sign as the server does"
    found = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    earlier = datetime.now(UTC) - timedelta(seconds=60)
    found |= {"exp": int(earlier.timestamp())}
    changed = encoded(json.dumps(found).encode())
    signed = encoded(hmac.digest(key, f"{head}.{changed}".encode(), "sha256"))
    return keys.model_copy(update={"session_token": f"{head}.{changed}.{signed}"})


def store_attempts(
    store: ObjectStore, url: str, keys: StoreCredentials
) -> dict[str, Callable[[], str]]:
    """Return attempts at files of others, by description. Each returns the refusal."""
    own = Requests(store, url, keys)
    late = Requests(store, url, expired(keys))
    forged = Requests(store, url, keys.model_copy(update={"secret_access_key": "guessed"}))
    first = f"{HOME}/checkpoints/segment-1/step-1/manifest.json"
    mine = f"{HOME}/checkpoints/segment-2/step-2/weights"
    source = quote(f"/{own.bucket}/{own.prefix}/{FOREIGN[0]}")
    listing = f"list-type=2&prefix={quote(f'{own.prefix}/{HOME}', safe='')}"
    deletion = f"<Delete><Object><Key>{own.prefix}/{first}</Key></Object></Delete>".encode()
    rule = b"<LifecycleConfiguration></LifecycleConfiguration>"
    return {
        "read a checkpoint of another account": lambda: own.refused("GET", FOREIGN[0]),
        "read an adapter of another job": lambda: own.refused("GET", FOREIGN[1]),
        "read the operator's log of its job": lambda: own.refused("GET", FOREIGN[2]),
        "read another base model": lambda: own.refused("GET", FOREIGN[3]),
        "read another dataset": lambda: own.refused("GET", FOREIGN[4]),
        "read an upload": lambda: own.refused("GET", FOREIGN[5]),
        "read a seal": lambda: own.refused("GET", FOREIGN[6]),
        "list the bucket": lambda: own.refused("GET", None, "list-type=2"),
        "list the folder of its job": lambda: own.refused("GET", None, listing),
        "list uploads in progress": lambda: own.refused("GET", None, "uploads="),
        "overwrite a file of segment 1": lambda: own.refused("PUT", first, body=b"x"),
        "overwrite its dataset": lambda: own.refused("PUT", PLAN.dataset_ref, body=b"x"),
        "overwrite its base model": lambda: own.refused("PUT", READABLE[1], body=b"x"),
        "write into another account": lambda: own.refused("PUT", f"{OTHER}/x", body=b"x"),
        "start an upload to segment 1": lambda: own.refused("POST", first, "uploads="),
        "copy a foreign file to itself": lambda: own.refused("PUT", mine, x_amz_copy_source=source),
        "delete a file of segment 1": lambda: own.refused("DELETE", first),
        "delete its dataset": lambda: own.refused("DELETE", PLAN.dataset_ref),
        "delete many files at once": lambda: own.refused("POST", None, "delete=", deletion),
        "change the rules of the bucket": lambda: own.refused("PUT", None, "lifecycle=", rule),
        "read with expired keys": lambda: late.refused("GET", PLAN.dataset_ref),
        "write with expired keys": lambda: late.refused("PUT", mine, body=b"x"),
        "read with another secret": lambda: forged.refused("GET", PLAN.dataset_ref),
    }


class Bus:
    """A connection with the NATS credentials of segment 2."""

    def __init__(self) -> None:
        self.client, self._errors = Client(), asyncio.Queue[Exception]()

    async def connect(self, settings: Settings, credentials: Credentials) -> None:
        assert settings.nats_url is not None
        await self.client.connect(
            settings.nats_url,
            user_jwt_cb=lambda: bytearray(credentials.jwt.encode()),
            signature_cb=signer(credentials.seed),
            inbox_prefix=inbox_prefix(JOB_ID, 2),
            error_cb=self._errors.put,
            allow_reconnect=False,
        )

    async def publish(self, subject: str) -> str:
        await self.client.publish(subject, b"{}")
        return await self._refusal()

    async def subscribe(self, subject: str) -> str:
        await self.client.subscribe(subject)
        return await self._refusal()

    async def _refusal(self) -> str:
        await self.client.flush()
        error = str(await asyncio.wait_for(self._errors.get(), DENIED_SECONDS)).lower()
        assert "permissions violation" in error
        return "permissions violation"


PUBLISHED = {
    "report for another job": f"reports.{ACCOUNT_ID}.{OTHER_JOB}.1",
    "report for segment 1": f"reports.{ACCOUNT_ID}.{JOB_ID}.1",
    "send an event": f"events.{ACCOUNT_ID}.Job.1.JobApproved",
    "extend its own lease": control_subject(JOB_ID, 2),
    "read the control of another job": (
        f"$JS.API.DIRECT.GET.{CONTROL}.{control_subject(OTHER_JOB, 1)}"
    ),
    "delete the event stream": f"$JS.API.STREAM.DELETE.{EVENTS}",
    "purge the reports": f"$JS.API.STREAM.PURGE.{REPORTS}",
}
SUBSCRIBED = {"hear all events": "events.>", "hear the replies of others": "_INBOX.>"}


async def test_every_attempt_at_what_is_not_its_own_is_refused(
    object_store: ObjectStore,
    s3_url: str,
    settings: Settings,
    stored: Artifacts,
    keys: StoreCredentials,
    record_property: Callable[[str, object], None],
) -> None:
    own = Requests(object_store, s3_url, keys)
    for method, ref in (("GET", PLAN.dataset_ref), ("PUT", f"{HOME}/adapter/segment-2/x")):
        assert own.send(method, ref).is_success, "the attempts must not fail for their signature"
    before = content_of(stored)
    rows = {name: attempt() for name, attempt in store_attempts(object_store, s3_url, keys).items()}
    services = await connect(settings)
    await provision(services.jetstream(), ())
    issuer = CredentialIssuer.of(settings)
    assert issuer is not None
    bus = Bus()
    await bus.connect(settings, issuer.issue(ACCOUNT_ID, JOB_ID, 2))
    refusals = {name: row.split()[1] for name, row in rows.items()}
    late = {name: code for name, code in refusals.items() if "expired" in name}
    assert set(late.values()) <= {"ExpiredToken", "AccessDenied", "InvalidAccessKeyId"}
    assert refusals.pop("read with another secret") == "SignatureDoesNotMatch"
    assert {code for name, code in refusals.items() if name not in late} == {"AccessDenied"}
    rows |= {name: await bus.publish(subject) for name, subject in PUBLISHED.items()}
    rows |= {name: await bus.subscribe(subject) for name, subject in SUBSCRIBED.items()}
    await bus.client.close()
    overdue = CredentialIssuer(issuer.seed, issuer.account, valid_seconds=-60.0)
    with pytest.raises(NatsError) as refused:
        await Bus().connect(settings, overdue.issue(ACCOUNT_ID, JOB_ID, 2))
    rows["connect with an expired JWT"] = type(refused.value).__name__
    for stream in (EVENTS, REPORTS, CONTROL):
        assert (await services.jetstream().stream_info(stream)).state.messages == 0
    await services.close()
    assert content_of(stored) == before
    assert len(rows) >= 30
    for number, (name, refusal) in enumerate(rows.items(), start=1):
        record_property("measured", f"{number:2} {name:36} {refusal}")


def test_temporary_keys_do_not_get_others(
    s3_url: str, keys: StoreCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_access_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", keys.session_token)
    with pytest.raises(S3Refused) as refused:
        StoreIssuer(s3_url, ROLE, 900).issue(JOB_ID, 1, store_access(second_segment()))
    assert refused.value.code == "AccessDenied"


def test_keys_are_valid_for_a_lease_within_the_limits_of_sts(s3_url: str) -> None:
    given = Settings(artifacts_url=s3_url, artifacts_role=ROLE)
    for lease, valid in ((300, 930), (10, SHORTEST_SECONDS), (100_000, LONGEST_SECONDS)):
        issuer = StoreIssuer.of(given.model_copy(update={"lease_seconds": lease}))
        assert issuer is not None
        assert issuer.valid_seconds == valid


def test_a_role_is_required_on_s3_alone(tmp_path: Path) -> None:
    assert required_store_issuer(Settings(home=tmp_path)) is None
    assert StoreIssuer.of(Settings(home=tmp_path, artifacts_role=ROLE)) is None
    with pytest.raises(RuntimeError, match="ECOLINK_ARTIFACTS_ROLE"):
        required_store_issuer(Settings(artifacts_url="s3://bucket/x"))


def test_a_policy_is_short_and_has_no_wildcard_of_a_ref() -> None:
    access = store_access(second_segment())
    assert len(session_policy("s3://a-bucket-with-a-long-name/and/a/folder", access)) < 2048
    with pytest.raises(ValueError, match="cannot be in a policy"):
        session_policy("s3://bucket", type(access)(["datasets/*"], [], []))


def test_keys_stay_out_of_logs(keys: StoreCredentials) -> None:
    assert keys.secret_access_key not in repr(keys)
    assert keys.session_token not in repr(keys)


def test_wrong_keys_raise_a_store_error(s3_url: str, keys: StoreCredentials) -> None:
    wrong = keys.model_copy(update={"secret_access_key": "x"})
    with pytest.raises(BaseError):
        Artifacts(s3_url, credentials=wrong.for_obstore).get(PLAN.dataset_ref)
