"""Each control of a page names the right that its route needs, and pages name those of the key."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.access.scope import Scope
from gateway.http.permissions import DOWNLOAD, declared_routes
from tests.builders.platform import Platform
from tests.gateway.jobs.owners import Reader
from tests.gateway.models.conftest import Deployer
from tests.gateway.web.html import Node, read_html
from tests.gateway.web.signed_in import signed_in


class Routes:
    """The right that each route needs, as in `data-needs`."""

    def __init__(self, app: FastAPI) -> None:
        self._rights = [
            (each.method, re.compile(re.sub(r"\{[^}]+\}", "[^/]+", each.path)), each.permission)
            for each in declared_routes(app)
        ]

    def right(self, method: str, url: str) -> str:
        """Return the right, or an empty text if reading is enough."""
        path = re.split("[?#]", url)[0]
        (permission,) = (
            permission
            for verb, pattern, permission in self._rights
            if verb == method and pattern.fullmatch(path)
        )
        changes = [str(each) for each in permission.scopes if each is not Scope.READ]
        reads = Scope.READ in permission.scopes and permission.roles == DOWNLOAD.roles
        return " ".join([*changes, *(["download"] if reads else [])])


def with_parents(node: Node, *parents: Node) -> Iterator[tuple[Node, ...]]:
    """Yield each element with its parents, the innermost first."""
    yield node, *parents
    for child in node.children:
        if isinstance(child, Node):
            yield from with_parents(child, node, *parents)


def unmarked(page: Node, routes: Routes) -> list[str]:
    """Return the controls that a user without the needed right would see."""
    found: list[str] = []
    for node, *parents in with_parents(page):
        url = node.attributes.get("hx-post")
        needed = routes.right("POST", url) if url else ""
        if "download" in node.attributes:
            needed = routes.right("GET", node.attributes["href"])
        shown_by = [node, *parents]
        for dialog in parents:
            if dialog.tag == "dialog":  # it is visible after its button was pressed
                name = dialog.attributes["id"]
                shown_by = [
                    each for each in page.all() if each.attributes.get("data-opens") == name
                ]
        marks = [each.attributes.get("data-needs") for each in shown_by]
        if needed and marks and needed not in marks:
            found.append(f"{needed}: {node.tag} {node.attributes}")
    return found


def page_of(client: TestClient, path: str) -> Node:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return read_html(answer.text)


def require_marks(client: TestClient, *paths: str) -> None:
    assert isinstance(client.app, FastAPI)
    routes = Routes(client.app)
    for path in paths:
        assert unmarked(page_of(client, path), routes) == [], path


def test_each_control_of_a_job_names_its_right(client: TestClient, platform: Platform) -> None:
    running = Reader(client, platform)
    running.train()
    platform.project()
    require_marks(client, running.page_path, "/fine-tune")
    running.post("pause")
    running.end()
    platform.project()
    require_marks(client, running.page_path)


def test_each_control_of_datasets_names_its_right(client: TestClient, platform: Platform) -> None:
    owner, _ = platform.ready()
    signed_in(client, owner)
    ready = platform.upload(owner.account_id, b'{"prompt": "a", "completion": "b"}\n')
    platform.validate_upload(ready)
    rejected = platform.dataset(owner, ready=False)
    platform.reject(rejected)
    platform.project()
    paths = "/datasets", "/datasets/generate", f"/datasets/{ready}", f"/datasets/{rejected}"
    require_marks(client, *paths)


def test_each_control_of_models_keys_and_billing_names_its_right(
    client: TestClient, platform: Platform
) -> None:
    deployer = Deployer(client, platform)
    signed_in(client, deployer.person)
    paths = (
        "/models",
        "/models/playground",
        "/billing",
        deployer.job_path.replace("jobs", "fine-tune", 1),
    )
    require_marks(client, *paths)
    deployer.deploy()
    deployer.serve(deployer.model)
    platform.project()
    require_marks(client, *paths)
    operator = signed_in(client, platform.person(Role.OPERATOR))
    account = f"/ops/accounts/{deployer.person.account_id}"
    require_marks(operator.client, "/models", "/ops/accounts", account)
    platform.suspend(deployer.person)
    require_marks(operator.client, account)


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        ((Scope.READ,), "read download"),
        ((Scope.READ, Scope.TRAIN), "read train download"),
        (tuple(Scope), "read train deploy billing keys download"),
    ],
)
def test_a_page_names_the_rights_of_the_key(
    client: TestClient, platform: Platform, scopes: tuple[Scope, ...], may: str
) -> None:
    owner = platform.person()
    signed_in(client, platform.key(owner.account_id, KeyRequest(scopes=scopes)))
    assert rights_of_page(client) == may


def test_an_auditor_may_only_read(client: TestClient, platform: Platform) -> None:
    signed_in(client, platform.person(Role.AUDITOR))
    assert rights_of_page(client) == "read"


def test_an_operator_who_may_only_read_sees_the_links_to_their_pages(
    client: TestClient, platform: Platform
) -> None:
    operator = platform.person(Role.OPERATOR).account_id
    signed_in(client, platform.key(operator, KeyRequest(scopes=[Scope.READ])))
    assert rights_of_page(client) == "read download operator"
    links = {
        each.attributes["href"]: each.attributes.get("data-needs")
        for each in page_of(client, "/ops/estimates").all()
        if each.tag == "a" and each.attributes.get("href", "").startswith("/ops/")
    }
    assert links["/ops/security"] == links["/ops/checks"] == "operator"
    assert links["/ops/seals"] is None


def rights_of_page(client: TestClient) -> str:
    (body,) = (each for each in page_of(client, "/datasets").all() if each.tag == "body")
    return body.attributes["data-may"]


def test_the_wizard_and_the_playground_explain_a_missing_scope(
    client: TestClient, platform: Platform
) -> None:
    platform.ready()
    signed_in(client, platform.person(Role.AUDITOR))
    wizard = client.get("/fine-tune/new").text
    assert "data-no-train" in wizard
    assert 'hx-post="/fine-tune/new' not in wizard
    assert "data-no-deploy" in client.get("/models/playground").text
