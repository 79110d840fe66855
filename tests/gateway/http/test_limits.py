"""Rate limits, quotas and lockouts: refusals, headers, and accounts that are not affected."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from starlette.websockets import WebSocketDisconnect

from domain.access.role import Role
from gateway.http.errors import RateLimited
from gateway.http.lockout import Lockout, network_of
from gateway.http.openai_vocabulary import file_name
from gateway.http.quotas import Buckets, duration
from infrastructure.accounts import security_log
from infrastructure.http.limits import Limits
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.gateway.conftest import application

LINE = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def limited(settings: Settings, **changed: int) -> Iterator[TestClient]:
    """A client of a gateway with other limits."""
    app = application(settings.model_copy(update={"limits": changed}))
    with TestClient(app, raise_server_exceptions=False) as client:
        app.state.lockout._clock = Clock()  # a lockout must not end during a slow test
        yield client


@pytest.fixture
def person(platform: Platform, projecting: None) -> Person:
    return platform.person()


def test_a_bucket_refills_and_a_debt_is_paid_first() -> None:
    clock = Clock()
    buckets = Buckets(Limits({"prompt_tokens": 60}), clock)
    assert buckets.take("prompt_tokens", "a", 40).remaining == 20
    assert buckets.charge("prompt_tokens", "a", 50).remaining == -30
    with pytest.raises(RateLimited) as refusal:
        buckets.require("prompt_tokens", "a")
    assert refusal.value.retry_seconds == 31
    assert buckets.take("prompt_tokens", "b").remaining == 59, "another account is not affected"
    clock.now += 31
    assert buckets.require("prompt_tokens", "a").remaining == 1
    clock.now += 1000
    assert buckets.require("prompt_tokens", "a").remaining == 60


def test_times_are_written_as_openai_writes_them() -> None:
    assert [duration(each) for each in (0, 0.25, 1, 64, 3600)] == [
        "0ms",
        "250ms",
        "1s",
        "1m4s",
        "60m0s",
    ]


@pytest.mark.parametrize("path", ["/api/account", "/v1/models"])
def test_too_many_requests_are_refused_with_openai_headers(
    settings: Settings, platform: Platform, person: Person, path: str
) -> None:
    with limited(settings, requests=3) as client:
        for left in (2, 1, 0):
            answer = client.get(path, headers=person.headers)
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "3"
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
            assert answer.headers["x-ratelimit-reset-requests"]
        refused = client.get(path, headers=person.headers)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(refused.headers["retry-after"]) <= 20
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert client.get(path, headers=platform.person().headers).status_code == 200


def test_making_and_revoking_keys_is_limited(
    settings: Settings, platform: Platform, person: Person
) -> None:
    with limited(settings, key_changes=4) as client:
        said = []
        for _ in range(3):
            made = client.post("/api/keys", headers=person.headers)
            said.append(made.status_code)
            if made.is_success:
                path = f"/api/keys/{made.json()['id']}/revoke"
                said.append(client.post(path, headers=person.headers).status_code)
        assert said == [201, 200, 201, 200, 429]
    assert sum("ApiKeyIssued" in each for each in platform.topics()) == 3


def test_an_operator_can_revoke_the_keys_of_a_thief_who_used_up_the_limit(
    settings: Settings, platform: Platform, person: Person
) -> None:
    operator = platform.person(Role.OPERATOR)
    keys = f"/api/accounts/{person.account_id}/keys"
    with limited(settings, key_changes=2) as client:
        said = [client.post("/api/keys", headers=person.headers).status_code for _ in range(3)]
        assert said == [201, 201, 429]
        made = [client.post(keys, headers=operator.headers).status_code for _ in range(3)]
        assert made == [201, 201, 429]
        listed = client.get(keys, headers=operator.headers).json()["data"]
        for key in listed:
            revoked = client.post(f"{keys}/{key['id']}/revoke", headers=operator.headers)
            assert revoked.status_code == 200
    assert len(listed) == 5


def test_a_refused_key_names_the_quota(settings: Settings, person: Person) -> None:
    with limited(settings, keys=2) as client:
        assert client.post("/api/keys", headers=person.headers).status_code == 201
        refused = client.post("/api/keys", headers=person.headers)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "quota_exceeded"
        assert refused.headers["x-ratelimit-limit-keys"] == "2"
        assert "retry-after" not in refused.headers
        assert client.get("/api/keys", headers=person.headers).status_code == 200


def upload(client: TestClient, person: Person, path: str) -> tuple[int, str | None]:
    if path == "/v1/files":
        files = {"file": ("a.jsonl", LINE), "purpose": (None, "fine-tune")}
        answer = client.post(path, headers=person.headers, files=files)
    else:
        answer = client.post(path, headers=person.headers, content=LINE, params={"name": "a"})
    return answer.status_code, answer.headers.get("x-should-retry")


@pytest.mark.parametrize("path", ["/api/datasets", "/v1/files"])
def test_a_quota_of_datasets_is_refused_before_the_upload(
    settings: Settings, platform: Platform, person: Person, path: str
) -> None:
    with limited(settings, datasets=1) as client:
        assert upload(client, person, path)[0] in (200, 202)
        status, retry = upload(client, person, path)
        assert status == 429
        assert retry == ("false" if path == "/v1/files" else None)
    assert sum("DatasetUploaded" in each for each in platform.topics()) == 1


def test_a_quota_of_bytes_is_refused(
    settings: Settings, platform: Platform, person: Person
) -> None:
    from domain.core.aggregate import because
    from domain.datasets.dataset import Dataset

    with because(platform.cause):
        platform.log.commit(Dataset.uploaded(uuid4(), person.account_id, "x", "00", 1024**3))
    platform.project()
    with limited(settings, dataset_gib=1) as client:
        answer = client.post(
            "/api/datasets", headers=person.headers, content=LINE, params={"name": "a"}
        )
    assert answer.status_code == 429
    assert answer.headers["x-ratelimit-limit-bytes"] == str(1024**3)


def test_more_sockets_than_an_account_may_have_are_closed(
    settings: Settings, platform: Platform, person: Person
) -> None:
    path = "/api/events/stream"
    with limited(settings, sockets=1) as client:
        with client.websocket_connect(path, headers=person.headers) as first:
            assert first.receive_json()["sequence"]
            with client.websocket_connect(path, headers=person.headers) as second:
                with pytest.raises(WebSocketDisconnect) as closed:
                    second.receive_json()
            assert closed.value.code == 4429
            with client.websocket_connect(path, headers=platform.person().headers) as other:
                assert other.receive_json()["sequence"]


def wrong() -> dict[str, str]:
    return {"authorization": f"Bearer eco_{uuid4().hex}"}


def test_wrong_keys_lock_an_address_out_and_are_recorded(
    settings: Settings, platform: Platform, person: Person
) -> None:
    with limited(settings, refused_credentials=3) as client:
        assert client.get("/api/account", headers=person.headers).status_code == 200
        said = [client.get("/api/account", headers=wrong()).status_code for _ in range(5)]
        assert said == [401, 401, 401, 401, 429]
        form = client.post("/sign-in", data={"api_key": uuid4().hex})
        assert form.status_code == 429
        assert int(form.headers["retry-after"]) >= 1
        assert client.get(f"/sign-in/{uuid4().hex}").status_code == 429
        assert client.get("/api/account", headers=person.headers).status_code == 200
    with connect(settings) as connection:
        (event,) = security_log.newest(connection, 10)
        assert (event["kind"], event["address"]) == ("lockout", "testclient")
        assert security_log.delete_older(connection, timedelta(days=1)) == 0
        assert security_log.delete_older(connection, timedelta(seconds=-5)) == 1
    assert "testclient" not in str(platform.topics())


@pytest.mark.parametrize("how", ["form", "link"])
def test_sign_in_guesses_lock_out_too(settings: Settings, person: Person, how: str) -> None:
    with limited(settings, refused_credentials=2) as client:

        def guess() -> int:
            if how == "form":
                return client.post("/sign-in", data={"api_key": uuid4().hex}).status_code
            return client.get(f"/sign-in/{uuid4().hex}").status_code

        assert [guess() for _ in range(4)] == [200, 200, 200, 429]


class Trace(list[tuple[str, str, str]]):
    """Recorded security events."""

    def __call__(self, kind: str, address: str, detail: str) -> None:
        self.append((kind, address, detail))


def test_lockouts_double_and_are_forgotten() -> None:
    clock, trace = Clock(), Trace()
    lockout = Lockout(Limits({"refused_credentials": 1}), trace, clock)

    def locked_seconds() -> float:
        lockout.refused("192.0.2.7", uuid4().hex)
        try:
            lockout.require_open("192.0.2.7", "x")
        except RateLimited as error:
            return error.retry_seconds or 0
        return 0

    assert locked_seconds() == 0
    for seconds in (1, 2, 4, 8):
        assert locked_seconds() == seconds
        clock.now += seconds
    lockout.require_open("192.0.2.7", "x")
    clock.now += 10_000
    assert locked_seconds() == 0
    assert [kind for kind, _, _ in trace] == ["lockout"] * 4


def test_a_repeated_wrong_key_is_recorded_without_a_lockout() -> None:
    trace = Trace()
    lockout = Lockout(Limits({"refused_credentials": 2}), trace, Clock())
    for _ in range(250):
        lockout.refused("192.0.2.7", "revoked")
    lockout.require_open("192.0.2.7", "another")
    assert [kind for kind, _, _ in trace] == ["repeated_refusal"]


def test_a_client_is_its_ipv6_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert network_of("192.0.2.7") == "192.0.2.7"


def test_an_address_without_a_key_is_limited_too(settings: Settings, projecting: None) -> None:
    with limited(settings, address_requests=3) as client:
        said = [client.get("/healthz").status_code for _ in range(4)]
    assert said == [200, 200, 200, 429]


def test_answers_of_the_apis_are_kept_by_no_cache(
    client: TestClient, platform: Platform, subtests: pytest.Subtests
) -> None:
    for path in ("/api/account", "/v1/models", "/api/nothing", "/v1/nothing"):
        with subtests.test(path):
            answer = client.get(path, headers=platform.person().headers)
            assert answer.headers["cache-control"] == "no-store"


@pytest.mark.full
@pytest.mark.parametrize("projected", [True, False])
def test_concurrent_approvals_do_not_exceed_the_limit_of_unfinished_jobs(
    settings: Settings, platform: Platform, request: pytest.FixtureRequest, projected: bool
) -> None:
    """Even while the projector is down, approvals and requests of /v1 share one limit."""
    if projected:
        request.getfixturevalue("projecting")
    person, form = platform.ready(100)
    file = {"training_file": file_name(platform.dataset(person, ready=False)), "model": BASE_MODEL}
    platform.project()
    with limited(settings, jobs=3) as client, ThreadPoolExecutor(8) as threads:

        def order(number: int) -> Response:
            path, body = ("/api/jobs", form), ("/v1/fine_tuning/jobs", file)
            url, json = (path, body)[number % 2]
            return client.post(url, json=json, headers=person.headers)

        answers = list(threads.map(order, range(8)))
        refused = [each for each in answers if each.status_code == 429]
        assert len(refused) == 5, [each.text for each in answers]
        for each in refused:
            assert each.json()["error"]["code"] == "quota_exceeded"
            assert "has 3 unfinished jobs, and the maximum is 3" in each.text
        if projected:
            other, other_form = platform.ready()
            assert client.post("/api/jobs", json=other_form, headers=other.headers).is_success
            saved = next(each.json()["id"] for each in answers if each.is_success)
            path = f"/v1/fine_tuning/jobs/{saved}/cancel"
            assert client.post(path, headers=person.headers).is_success
            assert order(0).is_success
            assert order(0).status_code == 429


@pytest.mark.parametrize("quota", ["keys", "datasets"])
def test_concurrent_requests_do_not_exceed_a_quota(
    settings: Settings, person: Person, quota: str
) -> None:
    with limited(settings, **{quota: 3}) as client, ThreadPoolExecutor(6) as threads:

        def create(_: int) -> int:
            if quota == "datasets":
                return upload(client, person, "/api/datasets")[0]
            return client.post("/api/keys", headers=person.headers).status_code

        statuses = list(threads.map(create, range(6)))
        refused = [each for each in statuses if each == 429]
        listed = client.get(f"/api/{quota}", headers=person.headers).json()["data"]
    assert (len(listed), len(refused)) == (3, 4 if quota == "keys" else 3), statuses
