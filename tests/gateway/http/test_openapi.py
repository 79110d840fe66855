"""The OpenAPI document and the reference page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from eventsourcing.persistence import StoredEvent
from fastapi.testclient import TestClient
from jsonschema_rs import Draft202012Validator

from domain.core.aggregate import Event
from gateway.app import create_app
from gateway.events.schemas import EventResponse
from gateway.http.openapi import V1_PREFIX, operations
from infrastructure.bus.consumer import Recorded
from infrastructure.settings import Settings
from tests.domain.test_stored_events import MAPPER, STORED


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


SCHEMAS = "#/components/schemas/"

Validator = Callable[[dict[str, Any]], Draft202012Validator]


@pytest.fixture(scope="module")
def validator(document: dict[str, Any]) -> Validator:
    """Return a function that makes the validator of a schema of the document.

    A validator with all components takes a tenth of a second, so it has only those of the schema.
    """
    components = document["components"]["schemas"]

    def used(schema: object, found: dict[str, Any]) -> dict[str, Any]:
        for ref in re.findall(r'"\$ref": "([^"]+)"', json.dumps(schema)):
            assert ref.startswith(SCHEMAS), ref
            name = ref.removeprefix(SCHEMAS).partition("/")[0]
            if name not in found:
                found[name] = components[name]
                used(components[name], found)
        return found

    return lambda schema: Draft202012Validator(
        schema | {"components": {"schemas": used(schema, {})}}
    )


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every body in the document with a name for it."""
    for method, path, operation in operations(document):
        if "requestBody" in operation:
            yield f"{method} {path}", operation["requestBody"]
        for status, answer in operation["responses"].items():
            yield f"{method} {path} {status}", answer


def test_every_json_body_has_a_schema_and_an_example_that_matches_it(
    document: dict[str, Any], validator: Validator
) -> None:
    for name, body in bodies(document):
        content = body.get("content", {}).get("application/json")
        if content is not None:
            assert content["schema"], name
            problems = validator(content["schema"]).iter_errors(content["example"])
            assert [f"{each.instance_path}: {each.message}" for each in problems] == [], name


def test_operations_have_unique_names_and_descriptions(document: dict[str, Any]) -> None:
    found = [operation for _, _, operation in operations(document)]
    ids = [operation["operationId"] for operation in found]
    assert len(ids) == len(set(ids)) > 50
    assert [each["operationId"] for each in found if not each.get("description")] == []
    assert [each["operationId"] for each in found if not each.get("tags")] == []


def test_refusals_are_documented_in_the_shape_of_their_api(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        native = not path.startswith(V1_PREFIX)
        answers = operation["responses"]
        assert ("401" in answers) == (path != "/healthz"), path
        assert native or "422" not in answers, path
        if "requestBody" in operation:
            assert {"400", "413"} <= answers.keys(), path
        if "{" in path and not path.startswith("/api/account"):
            assert "404" in answers, path
        for status, answer in answers.items():
            if status >= "400":
                ref = answer["content"]["application/json"]["schema"]["$ref"]
                shape = "ErrorResponse" if native else "OpenAIErrorResponse"
                assert ref.rpartition("/")[2] == shape, (method, path, status)


@pytest.mark.parametrize("row", STORED, ids=lambda row: row.topic)
def test_events_match_their_schemas(row: StoredEvent, validator: Validator) -> None:
    event = MAPPER.to_domain_event(row)
    assert isinstance(event, Event)
    fields = json.loads(EventResponse.of(Recorded.of(1, event), None).model_dump_json())["fields"]
    ref = {"$ref": f"#/components/schemas/{event.TOPIC}Fields"}
    problems = validator(ref).iter_errors(fields)
    assert [f"{each.instance_path}: {each.message}" for each in problems] == []


class Links(HTMLParser):
    """The IDs, anchors and loaded files of a page, and its inline scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids, self.anchors = list[str](), list[str]()
        self.loaded, self.inline = list[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        if tag == "a":
            self.anchors.append(given["href"])
        if tag == "link" or "src" in given:
            self.loaded.append(given.get("href") or given["src"])
        if tag in ("script", "style") or "style" in given:
            self.inline.append(tag)


@pytest.mark.full
def test_the_page_shows_everything_and_needs_no_other_host(
    document: dict[str, Any], late_client: TestClient
) -> None:
    answer = late_client.get("/api/docs")
    assert answer.status_code == 200
    links = Links(answer.text)
    assert (links.loaded, links.inline) == (["/api/docs/reference.css"], [])
    assert "default-src 'none'; style-src 'self'" in answer.headers["content-security-policy"]
    assert late_client.get(links.loaded[0]).headers["content-type"].startswith("text/css")
    assert len(links.ids) == len(set(links.ids))
    broken = [each for each in links.anchors if each[0] == "#" and each[1:] not in links.ids]
    assert broken == []
    shown = {operation["operationId"] for _, _, operation in operations(document)}
    assert shown < set(links.ids)
    assert {"event-JobApproved", "event-MinuteMetered", "event-CheckpointSaved"} < set(links.ids)
