"""Permissions of routes: every route with every role and scope, and undeclared routes.

`pytest -s` prints the matrix. docs/reference/access.md has it too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from domain.access.rights import KeyRequest, Rights
from domain.access.role import Role
from domain.access.scope import Scope
from gateway.http.access import CallerOf
from gateway.http.permissions import (
    PUBLIC,
    WEBSOCKET,
    DeclaredRoute,
    MayRead,
    declared_routes,
)
from tests.builders.platform import Person, Platform
from tests.gateway.conftest import application

VALUES = {"job_id": UUID(int=1).hex, "step": "1", "notification_id": "1"}
"""Values of path parameters. All others get a UUID, which is also a valid name."""

SIGNED_OUT = "no key"


@dataclass(frozen=True)
class Holder:
    """A key to call routes with, or none."""

    name: str
    rights: Rights | None
    headers: dict[str, str]

    def may_call(self, route: DeclaredRoute) -> bool:
        if self.rights is None:
            return route.permission.public
        return route.permission.allows(self.rights)


def holders(platform: Platform) -> Iterator[Holder]:
    """Yield no key, then for each role a key with every scope, and one with each scope."""
    yield Holder(SIGNED_OUT, None, {})
    for role in Role:
        account = platform.person(Role.OWNER if role is Role.MEMBER else role).account_id
        for scopes in (role.scopes, *((scope,) for scope in role.scopes if len(role.scopes) > 1)):
            key = platform.key(account, KeyRequest(role, scopes))
            name = f"{role} {'all' if scopes == role.scopes else scopes[0]}"
            yield Holder(name, Rights(role, scopes), key.headers)


def address(path: str) -> str:
    """Return a path of a route, with values for its parameters."""
    if path.startswith("/api/"):
        path = path.replace("{job_id}", "ftjob-{job_id}")
    return re.sub(r"{(\w+)}", lambda name: VALUES.get(name[1], str(UUID(int=1))), path)


def refuses(answer: Any) -> bool:
    """Return True if an answer refuses the key, or asks for one."""
    to_sign_in = answer.headers.get("location", "").startswith("/sign-in")
    signed_out = "set-cookie" in answer.headers
    return answer.status_code in (401, 403) or (to_sign_in and not signed_out)


def calls(client: TestClient, route: DeclaredRoute, holder: Holder) -> bool:
    """Return True if the gateway lets the holder call the route."""
    answer = client.request(
        route.method, address(route.path), headers=holder.headers, follow_redirects=False
    )
    assert answer.status_code < 500, (route, holder.name, answer.text)
    assert answer.status_code != 429, (route, holder.name, answer.text)
    return not refuses(answer)


def matrix(names: Sequence[str], rows: dict[str, list[bool]]) -> str:
    """Return a table with a letter for each holder that may call a route."""
    legend = [f"{chr(97 + number)}: {name}" for number, name in enumerate(names)]
    lines = [
        f"{''.join(chr(97 + n) if yes else '.' for n, yes in enumerate(row))}  {name}"
        for name, row in rows.items()
    ]
    return "\n".join([", ".join(legend), *lines])


def test_every_route_refuses_a_key_without_its_scope(
    client: TestClient, platform: Platform
) -> None:
    """Each route refuses requests without a key, and a key with another scope."""
    assert isinstance(client.app, FastAPI)
    account = platform.person(Role.OPERATOR).account_id
    keys = {
        scope: Holder(
            f"operator {scope}",
            Rights(Role.OPERATOR, (scope,)),
            platform.key(account, KeyRequest(scopes=[scope])).headers,
        )
        for scope in (Scope.READ, Scope.KEYS)
    }
    signed_out = Holder(SIGNED_OUT, None, {})
    let_pass = [
        f"{route.method} {route.path} by {holder.name}"
        for route in declared_routes(client.app)
        if route.method != WEBSOCKET and not route.permission.public
        for holder in (signed_out, keys[Scope.KEYS if route.permission.only_reads else Scope.READ])
        if not holder.may_call(route) and calls(client, route, holder)
    ]
    assert not let_pass


@pytest.mark.full
def test_every_route_with_every_role_and_scope(platform: Platform, projecting: None) -> None:
    """Each route lets exactly the permitted keys pass."""
    limits = dict.fromkeys(("requests", "changes", "key_changes", "address_requests"), 1_000_000)
    app = application(platform.settings.model_copy(update={"limits": limits}))
    every = list(holders(platform))
    shown: dict[str, list[bool]] = {}
    wrong: list[str] = []
    with TestClient(app, raise_server_exceptions=False) as client:
        for route in declared_routes(app):
            if route.method == WEBSOCKET:
                continue
            name = f"{route.method} {route.path}"
            shown[name] = [calls(client, route, holder) for holder in every]
            client.cookies.clear()
            wrong += [
                f"{name} by {holder.name}"
                for holder, called in zip(every, shown[name], strict=True)
                if called != holder.may_call(route)
            ]
    print("\n" + matrix([holder.name for holder in every], shown))
    assert not wrong
    assert len(shown) > 100


def test_the_event_stream_needs_the_scope_read(client: TestClient, platform: Platform) -> None:
    for holder in holders(platform):
        closed = 0
        path = "/api/events/stream"
        with client.websocket_connect(path, headers=holder.headers) as socket:
            try:
                socket.receive_json()
            except WebSocketDisconnect as end:
                closed = end.code
        if holder.rights is None:
            assert closed == 4401
        else:
            assert closed == (0 if Scope.READ in holder.rights.scopes else 4403), holder.name


def test_the_live_page_of_a_job_needs_the_scope_read(
    client: TestClient, platform: Platform
) -> None:
    for scopes, code in (((Scope.READ,), 4404), ((Scope.TRAIN,), 4403)):
        key = platform.key(platform.person().account_id, KeyRequest(scopes=scopes))
        client.post("/sign-in", data={"api_key": key.key}, follow_redirects=False)
        path = f"/fine-tune/ftjob-{UUID(int=1).hex}/live"
        with client.websocket_connect(path) as socket:
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
        assert closed.value.code == code
        client.cookies.clear()


def test_only_a_session_changes_without_a_scope(client: TestClient) -> None:
    """A route that changes data needs a scope other than read. Invoices only show the log."""
    assert isinstance(client.app, FastAPI)
    harmless = {(each.method, each.path) for each in declared_routes(client.app)} & {
        ("POST", "/sign-in"),
        ("POST", "/sign-in/{token}"),
        ("POST", "/sign-out"),
        ("POST", "/viewing"),
        ("POST", "/audit/verification"),  # reads the log, and stores only its own report
        ("POST", "/audit/verification/{id}/stop"),
        ("POST", "/payments/stripe/webhook"),  # refuses requests without Stripe's signature
        ("POST", "/api/invoices"),
        ("POST", "/billing/invoices"),
        ("POST", "/audit/invoices"),
        ("POST", "/notices/confirm/{token}"),  # the signed token is the permission
        ("POST", "/notices/unsubscribe/{token}"),
    }
    for route in declared_routes(client.app):
        if route.method in ("GET", WEBSOCKET):
            assert route.permission.only_reads, route
        elif (route.method, route.path) not in harmless:
            assert not route.permission.only_reads, route
            assert not route.permission.public, route


def test_an_application_with_an_undeclared_route_does_not_start() -> None:
    def declares_nothing(caller: CallerOf) -> None: ...

    def declares_one(caller: MayRead) -> None: ...

    app = FastAPI(docs_url=None, redoc_url=None)
    app.get("/open", dependencies=[PUBLIC])(declares_nothing)
    app.get("/one")(declares_one)
    kept = {(each.path, each.permission.scopes) for each in declared_routes(app)}
    assert {("/open", ()), ("/one", (Scope.READ,))} <= kept
    app.get("/two", dependencies=[PUBLIC])(declares_one)
    with pytest.raises(RuntimeError, match="GET /two declares 2 permissions"):
        declared_routes(app)
    closed = FastAPI(docs_url=None, redoc_url=None)
    closed.post("/none")(declares_nothing)
    with pytest.raises(RuntimeError, match="POST /none declares 0 permissions"):
        declared_routes(closed)


def test_a_missing_scope_is_named_with_its_remedy(client: TestClient, platform: Platform) -> None:
    account = platform.person().account_id
    reader = platform.key(account, KeyRequest(scopes=[Scope.READ]))
    answer = client.post("/api/estimates", json={}, headers=reader.headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (403, "missing_scope")
    assert error["figures"] == {"needed_scope": "train", "scopes": ["read"]}
    assert "ecolink keys create --scope train" in error["message"]
    v1 = client.post("/v1/chat/completions", json={}, headers=reader.headers).json()["error"]
    assert (v1["code"], v1["type"]) == ("missing_scope", "permission_error")
    member = platform.key(account, KeyRequest(Role.MEMBER))
    paid = client.post("/api/account/top-ups", json={"amount": "1"}, headers=member.headers)
    assert "Ask the owner of the account" in paid.json()["error"]["message"]


def test_a_session_has_the_scopes_of_its_key(client: TestClient, platform: Platform) -> None:
    reader = platform.key(platform.person().account_id, KeyRequest(scopes=[Scope.READ]))
    sign_in(client, reader)
    page = client.get("/models")
    assert page.status_code == 200
    assert "data-no-keys" in page.text
    token = page.text.partition('"x-csrf-token": "')[2].partition('"')[0]
    headers = {"hx-request": "true", "x-csrf-token": token}
    refused = client.post("/models/keys", data={"scope": "read"}, headers=headers)
    assert 'data-code="missing_scope"' in refused.text


def sign_in(client: TestClient, person: Person) -> None:
    answer = client.post("/sign-in", data={"api_key": person.key}, follow_redirects=False)
    assert answer.status_code == 303
