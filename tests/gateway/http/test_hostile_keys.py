"""Keys that may not read datasets: no response of any route has a text of a dataset."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from psycopg_pool import ConnectionPool

from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.access.scope import Scope
from gateway.app import create_app
from gateway.http.permissions import WEBSOCKET, declared_routes
from gateway.http.read_your_writes import caught_up
from infrastructure.postgres.store import Connection
from projections import PROJECTIONS
from tests.builders.platform import Person, Platform
from tests.extension_modules import extension_modules
from tests.gateway.jobs.owners import Owner
from tests.gateway.web.signed_in import signed_in
from tests.services.datasets.conftest import Service

CANARY = "zanzibar-quokka"
"""A word that every text of a dataset has, and nothing else."""

SECRET_MAIL = f"{CANARY}@example.com"


def chat(number: int) -> dict[str, Any]:
    asked = f"{CANARY} question {number} of {SECRET_MAIL}, or of somebody else entirely?"
    return {
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": f"{CANARY} answer {number}."},
        ]
    }


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


VALID = lines(*map(chat, range(12)), chat(3))
REJECTED = (
    lines(
        {"messages": [{"role": CANARY, "content": CANARY}]},
        {"messages": [{"role": "user", "content": 7, CANARY: 1}]},
        {CANARY: [CANARY]},
        [CANARY],
    )
    + f'{{"messages": {CANARY}\n'.encode()
)
TABLE = b"q,a,note\n" + b"".join(
    f"{CANARY} q{n},{CANARY} a{n},{CANARY}\n".encode() for n in range(5)
)


PLACES = {
    "GET /api/datasets/*/columns",
    "GET /api/datasets/*/content",
    "GET /api/datasets/*/report",
    "GET /api/jobs/ftjob-*/checkpoints",
    "GET /v1/files/file-*/content",
}
"""Some requests of the owner whose responses have the word. Extensions add others."""
PLACES |= {place for each in extension_modules("stored_texts") for place in each.PLACES}

METHODS = ("GET", "POST", "PATCH", "PUT", "DELETE")


class Canary:
    """An account with texts in each place that stores them."""

    def __init__(
        self, client: TestClient, platform: Platform, pool: ConnectionPool[Connection]
    ) -> None:
        self.client, self.platform, self.pool = client, platform, pool
        self.owner = Owner(client, platform, dollars=20)
        self.person = self.owner.person
        self.ids: dict[str, set[str]] = {"job_id": {self.owner.name}, "job": {self.owner.name}}
        self._datasets(Service(platform, pool))
        self._checkpoint()
        for each in extension_modules("stored_texts"):
            each.add(self, CANARY)
        backend = client.app.state.backend  # type: ignore[attr-defined]
        assert caught_up(backend, *PROJECTIONS, patience_seconds=60)

    def send(self, method: str, path: str, **body: Any) -> Any:
        answer = self.client.request(method, path, headers=self.person.headers, **body)
        assert answer.is_success, answer.text
        return answer.json()

    def _datasets(self, service: Service) -> None:
        uploads = (VALID, VALID + lines(chat(99)), REJECTED, TABLE)
        found = [service.upload(each, self.person.account_id) for each in uploads]
        service.catch_up()
        self.ids["dataset_id"] = {str(each) for each in found}
        self.dataset, self.validation = map(str, found[:2])
        self.ids["file_id"] = {f"file-{each.hex}" for each in found}

    def _checkpoint(self) -> None:
        sample = {"prompt": [{"role": "user", "content": CANARY}], "answer": CANARY}
        self.platform.artifacts.put("saved/10/sample.json", json.dumps(sample).encode())
        self.owner.train(checkpoint=None)
        self.owner.save(10, ref="saved/10", eval_loss=1.0)
        self.ids["step"] = {"10"}

    def paths(self, path: str) -> Iterator[str]:
        """Yield the paths of a route for all stored objects."""
        names = re.findall(r"{(\w+)}", path)
        of_pages = path.startswith("/fine-tune/ftjob-")
        values = [self.ids.get(name, {"1"}) for name in names]
        for found in product(*values):
            filled = path
            for name, value in zip(names, found, strict=True):
                given = value.removeprefix("ftjob-") if of_pages and name == "job_id" else value
                filled = filled.replace(f"{{{name}}}", given)
            yield filled


@pytest.fixture
def canary(
    platform: Platform, projecting: None, pool: ConnectionPool[Connection]
) -> Iterator[Canary]:
    allowed = {"webhook_networks": "127.0.0.0/8", "webhook_http": True}
    limits = dict.fromkeys(("requests", "changes", "key_changes", "address_requests"), 10**6)
    settings = platform.settings.model_copy(update=allowed | {"limits": limits})
    with TestClient(create_app(settings)) as client:
        yield Canary(client, platform, pool)


def texts(canary: Canary, method: str, **sent: Any) -> list[str]:
    """Return the requests of a key whose responses have a text of a dataset."""
    app = canary.client.app
    assert isinstance(app, FastAPI)
    query = f"?validation_dataset={canary.validation}&all_accounts=true&dataset="
    found = []
    for route in declared_routes(app):
        if route.method != method:
            continue
        for path in canary.paths(route.path):
            answer = canary.client.request(method, path + query, follow_redirects=False, **sent)
            assert answer.status_code < 500, (path, answer.text)
            if CANARY in answer.text:
                found.append(f"{method} {path}")
    return found


@pytest.mark.full
def test_no_key_sees_texts_of_datasets_without_the_right(
    canary: Canary, platform: Platform
) -> None:
    found: dict[str, list[str]] = {}
    headers = canary.person.headers
    shown = texts(canary, "GET", headers=headers)
    places = {re.sub(r"[0-9a-f-]{36}|[0-9a-f]{32}", "*", each) for each in shown}
    assert places >= PLACES, "the tests below would pass if no place had the word"

    auditor = platform.person(Role.AUDITOR)
    headers = auditor.headers | {"ecolink-account": str(canary.person.account_id)}
    for method in METHODS:
        found[f"auditor {method}"] = texts(canary, method, headers=headers)
    assert CANARY in live(canary, canary.person)
    browser = signed_in(canary.client, auditor)
    form = {"account": str(canary.person.account_id), "csrf_token": browser.csrf_token}
    assert canary.client.post("/viewing", data=form, follow_redirects=False).status_code == 303
    for headers in ({}, browser.htmx):
        found[f"pages {len(headers)}"] = texts(canary, "GET", headers=headers)
    (job,) = canary.ids["job_id"]
    assert canary.client.get(f"/fine-tune/{job}").is_success
    assert CANARY not in live(canary, None)
    stream = "/api/events/stream?all_accounts=true"
    with canary.client.websocket_connect(stream, headers=auditor.headers) as socket:
        assert CANARY not in socket.receive_text()
    for scope in set(Scope) - {Scope.READ}:
        key = platform.key(canary.person.account_id, KeyRequest(scopes=[scope]))
        for method in ("GET", "POST", "PATCH"):
            found[f"{scope} {method}"] = texts(canary, method, headers=key.headers, json={})
    for scope in (Scope.TRAIN, Scope.DEPLOY):
        key = platform.key(canary.person.account_id, KeyRequest(scopes=[scope]))
        headers = signed_in_without_pages(canary.client, key)
        found[f"pages {scope}"] = texts(canary, "POST", headers=headers)
    assert {name: each for name, each in found.items() if each} == {}


def live(canary: Canary, person: Person | None) -> str:
    """Return the frames of the live page until they have its checkpoints."""
    if person is not None:
        signed_in(canary.client, person)
    (job,) = canary.ids["job_id"]
    with canary.client.websocket_connect(f"/fine-tune/{job}/live") as socket:
        seen = socket.receive_text()
        while "checkpoint-" not in seen:  # the view may follow the first frame
            seen += socket.receive_text()
    return seen


def signed_in_without_pages(client: TestClient, person: Person) -> dict[str, str]:
    """Sign in with a key that may not read pages. Return the headers of an htmx request."""
    answer = client.post("/sign-in", data={"api_key": person.key}, follow_redirects=False)
    assert answer.status_code == 303
    page = client.get("/sign-in").text + client.get("/").text + client.get("/datasets").text
    token = page.partition('"x-csrf-token": "')[2].partition('"')[0]
    assert token
    return {"hx-request": "true", "x-csrf-token": token}


@pytest.mark.full
def test_every_websocket_is_in_this_table(canary: Canary) -> None:
    app = canary.client.app
    assert isinstance(app, FastAPI)
    sockets = {each.path for each in declared_routes(app) if each.method == WEBSOCKET}
    assert sockets == {"/api/events/stream", "/fine-tune/ftjob-{job_id}/live"}
