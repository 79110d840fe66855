"""The routes of the gateway, from its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.app import create_app
from gateway.http.errors import STATUSES
from infrastructure.settings import Settings
from tests.docs import markdown
from tests.docs.markdown import code, text

SECTIONS = {
    "/api": "EcoLink's own API",
    "/v1": "API of the `openai` package",
    "/": "Health",
}


def page() -> str:
    """Every route with its summary and statuses, then every error code."""
    operations = list(_operations(create_app(Settings()).openapi()))
    sections = []
    for prefix, title in SECTIONS.items():
        found = [each for each in operations if each[1].startswith(prefix)]
        operations = [each for each in operations if each not in found]
        rows = [
            (method, code(path), text(_meaning(operation)), " ".join(operation["responses"]))
            for method, path, operation in found
        ]
        sections.append(
            markdown.section(title, markdown.table(("method", "path", "meaning", "statuses"), rows))
        )
    return markdown.page(
        "Routes",
        "This page lists the routes of the gateway. A running gateway serves the complete "
        "reference, with every field and an example of each body, at `/api/docs` and "
        "`/api/openapi.json`.",
        *sections,
        _errors(),
    )


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in sorted(document["paths"].items()):
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _meaning(operation: dict[str, Any]) -> str:
    """The first paragraph of the description; without one, the summary."""
    return operation.get("description", operation["summary"]).split("\n\n")[0]


def _errors() -> str:
    kinds = {kind.code: (status, kind) for kind, status in reversed(STATUSES.items())}
    rows = [
        (f"{int(status)}", code(name), text(kind.__doc__))
        for name, (status, kind) in sorted(kinds.items(), key=lambda each: (each[1][0], each[0]))
    ]
    return markdown.section(
        "Errors",
        "The body of an error names a stable `code`. `/v1` has the same codes in OpenAI's shape. "
        "In addition, `/v1` answers routes and methods that it does not support with 404 and the "
        "code `not_supported`.",
        markdown.table(("status", "code", "meaning"), rows),
    )
