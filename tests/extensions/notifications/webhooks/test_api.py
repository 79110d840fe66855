"""Webhooks over the API."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.scope import Scope
from infrastructure.http.limits import Limits
from tests.builders.platform import Platform
from tests.extensions.notifications.webhooks.conftest import URL, Process
from tests.gateway.api_user import ApiUser


def created(user: ApiUser, **form: Any) -> Any:
    answer = user.post("/api/webhooks", {"url": URL} | form)
    assert answer.status_code == 201, answer.text
    return answer.json()


def changed(user: ApiUser, webhook: Any, **changes: Any) -> Any:
    path = f"/api/webhooks/{webhook['id']}"
    answer = user.client.patch(path, json=changes, headers=user.person.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_webhook_is_created_shown_and_deleted(user: ApiUser) -> None:
    made = created(user, description=" builds ", event_types=["balance.low", "balance.low"])
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert (made["description"], made["event_types"]) == ("builds", ["balance.low"])
    assert (made["url"], made["enabled"]) == (URL, True)
    path = f"/api/webhooks/{made['id']}"
    assert user.get(path).json() == made
    assert user.list("/api/webhooks") == [made]
    assert user.client.delete(path, headers=user.person.headers).status_code == 204
    assert user.list("/api/webhooks") == []
    assert user.get(path).status_code == 404


WRONG = (
    ({"url": "http://example.com/"}, "url"),
    ({"url": "https://127.0.0.1/"}, "url"),
    ({"url": "https://example.com:25/"}, "url"),
    ({"url": ""}, "url"),
    ({"url": URL, "event_types": ["webhook.test"]}, "event_types"),
    ({"url": URL, "event_types": ["x"]}, "event_types"),
    ({"url": URL, "description": "x" * 201}, "description"),
)


def test_a_wrong_form_is_refused_with_its_field(user: ApiUser) -> None:
    for form, field in WRONG:
        answer = user.post("/api/webhooks", form)
        assert answer.status_code == 422, form
        error = answer.json()["error"]
        named = error.get("fields") or [error]
        assert named[0]["field"].startswith(field)
    assert user.list("/api/webhooks") == []


def test_concurrent_requests_do_not_exceed_the_limit(user: ApiUser) -> None:
    most = Limits({})["webhooks"]
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda _: user.post("/api/webhooks", {"url": URL}), range(most + 8))
        refused = [each for each in answers if each.status_code == 429]
    assert (len(user.list("/api/webhooks")), len(refused)) == (most, 8)


def test_webhooks_and_their_tests_are_limited(user: ApiUser) -> None:
    path = ""
    for _ in range(Limits({})["webhooks"]):
        path = f"/api/webhooks/{created(user)['id']}/test"
    refused = user.post("/api/webhooks", {"url": URL})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
    for _ in range(Limits({})["webhook_sends"]):
        assert user.post(path).status_code == 202
    assert user.post(path).status_code == 429


def test_a_webhook_is_changed_disabled_and_enabled(user: ApiUser, process: Process) -> None:
    made = created(user)
    other = "https://example.org/"
    after = changed(user, made, url=other, event_types=["balance.low"], description="x")
    assert (after["url"], after["event_types"], after["description"]) == (
        other,
        ["balance.low"],
        "x",
    )
    off = changed(user, made, enabled=False)
    assert (off["enabled"], off["disabled_reason"]) == (False, "owner")
    process.record(made["id"], "evt_1")
    assert process.attempt() == [], "messages wait"
    on = changed(user, made, enabled=True, event_types=[])
    assert (on["enabled"], on["disabled_reason"], on["disabled_at"]) == (True, None, None)
    assert (on["event_types"], on["pending"]) == ([], 1)
    assert process.attempt() == [other]


def test_a_rotated_secret_is_new_and_the_previous_one_has_an_end(user: ApiUser) -> None:
    made = created(user)
    path = f"/api/webhooks/{made['id']}/rotate"
    rotated = user.post(path, {"overlap_hours": 1}).json()
    assert rotated["secret"] != made["secret"]
    assert rotated["previous_secret_until"] is not None
    at_once = user.post(path, {"overlap_hours": 0}).json()
    assert at_once["previous_secret_until"] is None
    assert user.post(path, {"overlap_hours": 169}).status_code == 422
    assert user.post(path).status_code == 200


def test_deliveries_are_listed_with_their_attempts(user: ApiUser, process: Process) -> None:
    made = created(user)
    path = f"/api/webhooks/{made['id']}/deliveries"
    process.record(made["id"], "evt_1")
    process.attempt(500, "Status 500.")
    process.record(made["id"], "evt_2")
    process.attempt()
    newest, oldest = user.list(path)
    assert (newest["message_id"], newest["status"]) == ("evt_2", "delivered")
    assert (oldest["message_id"], oldest["status"]) == ("evt_1", "pending")
    assert oldest["next_attempt_at"] is not None
    (attempt,) = oldest["attempts"]
    assert (attempt["status_code"], attempt["error"]) == (500, "Status 500.")
    assert attempt["response"] == "the response"
    assert newest["payload"]["type"] == newest["type"] == "fine_tuning.job.paused"
    assert user.get(f"{path}/{oldest['id']}").json() == oldest
    assert user.list(path, status="delivered") == [newest]
    first = user.get(path, limit=1).json()
    assert (first["data"], first["has_more"]) == ([newest], True)
    assert user.list(path, limit=1, after=newest["id"]) == [oldest]


def test_deliveries_are_replayed(user: ApiUser, process: Process) -> None:
    made = created(user)
    path = f"/api/webhooks/{made['id']}"
    process.record(made["id"], "evt_1")
    (delivery,) = user.list(f"{path}/deliveries")
    one = f"{path}/deliveries/{delivery['id']}/replay"
    assert user.post(one).status_code == 409, "it is pending"
    process.exhaust()
    shown = user.get(path).json()
    assert (shown["failed"], shown["disabled_reason"]) == (1, "failing")
    changed(user, made, enabled=True)
    since = {"since": delivery["created_at"]}
    assert user.post(f"{path}/replay", since).json() == {"replayed": 1}
    assert process.attempt() == [URL]
    assert user.post(one).json()["status"] == "pending"
    assert process.attempt() == [URL]
    assert user.post(f"{path}/replay", {"since": "2026-11-24"}).status_code == 422


def test_a_test_event_is_sent_once(user: ApiUser, process: Process) -> None:
    made = created(user, event_types=["balance.low"])
    path = f"/api/webhooks/{made['id']}"
    answer = user.post(f"{path}/test")
    assert (answer.status_code, answer.json()["type"]) == (202, "webhook.test")
    assert answer.json()["payload"]["data"] == {"id": made["id"]}
    process.attempt(404, "Status 404.")
    (delivery,) = user.list(f"{path}/deliveries")
    assert delivery["status"] == "failed"
    assert user.get(path).json()["enabled"]


def test_no_other_account_sees_or_changes_a_webhook(
    user: ApiUser, client: TestClient, platform: Platform, process: Process
) -> None:
    made = created(user)
    process.record(made["id"], "evt_1")
    (delivery,) = user.list(f"/api/webhooks/{made['id']}/deliveries")
    other = ApiUser(client, platform.person())
    mine = created(other)
    path, headers = f"/api/webhooks/{made['id']}", other.person.headers
    assert [each["id"] for each in other.list("/api/webhooks")] == [mine["id"]]
    one = f"/deliveries/{delivery['id']}"
    for each in ("", "/deliveries", one):
        assert other.get(f"{path}{each}").status_code == 404
    assert other.get(f"/api/webhooks/{mine['id']}{one}").status_code == 404
    for each in ("/rotate", "/test", f"{one}/replay"):
        assert other.post(f"{path}{each}").status_code == 404
    assert other.post(f"{path}/replay", {"since": "2026-11-24T00:00:00Z"}).status_code == 404
    assert client.patch(path, json={"enabled": False}, headers=headers).status_code == 404
    assert client.delete(path, headers=headers).status_code == 404
    assert user.get(path).json()["enabled"]
    assert user.get(f"/api/webhooks/{uuid4()}").status_code == 404


def test_a_key_without_the_scope_keys_sees_only_the_origin_of_a_url(
    user: ApiUser, client: TestClient, platform: Platform
) -> None:
    made = created(user)
    key = platform.key(user.person.account_id, KeyRequest(scopes=[Scope.READ]))
    reader = ApiUser(client, key)
    (shown,) = reader.list("/api/webhooks")
    assert shown["url"] == "https://example.com/…"
    refused = reader.post(f"/api/webhooks/{made['id']}/test")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
