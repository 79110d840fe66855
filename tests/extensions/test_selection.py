"""An extension that is installed but not selected adds nothing to the gateway and the commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import httpx
import pytest
import typer.main
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import compile_path

from deploy.processes import environment
from domain.access.role import Role
from gateway.app import create_app
from gateway.http.permissions import declared_routes
from infrastructure.extensions import SELECTION, Extension, installed
from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.gateway.conftest import running_gateway
from tests.gateway.fuzz.seeds import JobOf

LINK = re.compile(r'\b(?:href|action|hx-get|hx-post|hx-delete)="([^"?#]+)')


def parts() -> tuple[set[str], set[str]]:
    """Return all routes and commands under the selection of this process."""
    from deploy.cli import main

    return routes_of(create_app(Settings())), commands_of(main)


def routes_of(app: FastAPI) -> set[str]:
    return {f"{each.method} {each.path}" for each in declared_routes(app)}


def commands_of(main: typer.Typer, above: str = "") -> set[str]:
    return set(_commands(typer.main.get_group(main), above))


def _commands(group: Any, above: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}"


def own_parts(extension: Extension) -> tuple[set[str], set[str]]:
    """Return the routes and commands that an extension declares."""
    app = FastAPI(openapi_url=None)
    for reference in extension.api:
        app.include_router(extension.load(reference), prefix="/api")
    for reference in extension.pages:
        app.include_router(extension.load(reference))
    commands = {
        each
        for name, reference in extension.commands.items()
        for each in commands_of(extension.load(reference), f"{name} ")
    }
    for reference in extension.operator_commands:
        group = extension.load(reference)
        commands |= commands_of(group, f"{group.info.name} ")
    return routes_of(app), commands


@cache
def core() -> tuple[set[str], set[str]]:
    """Return the routes and commands of a process without extensions."""
    program = (
        "import json; from tests.extensions.test_selection import parts; "
        "print(json.dumps(list(map(list, parts()))))"
    )
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, check=True, env={SELECTION: ""}, capture_output=True)
    routes, commands = json.loads(shown.stdout)
    return set(routes), set(commands)


@pytest.mark.parametrize("extension", installed(), ids=lambda each: each.name)
def test_its_routes_and_commands_are_absent(extension: Extension) -> None:
    for own, found in zip(own_parts(extension), core(), strict=True):
        assert own.isdisjoint(found)


def test_there_are_no_other_differences() -> None:
    for number, (found, everything) in enumerate(zip(core(), parts(), strict=True)):
        own = {part for each in installed() for part in own_parts(each)[number]}
        assert everything - found == own
        assert found <= everything


def links(client: httpx.Client | TestClient, key: str, paths: Iterable[str]) -> set[str]:
    """Return the links on the pages of a person."""
    client.post("/sign-in", data={"api_key": key})
    found = set[str]()
    for path in paths:
        answer = client.get(path)
        assert answer.status_code < 500, path
        if answer.is_success and answer.headers["content-type"].startswith("text/html"):
            found |= set(LINK.findall(answer.text))
    return found


@pytest.mark.full
def test_pages_of_the_core_do_not_link_to_it(
    client: TestClient, settings: Settings, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = platform.person(Role.OPERATOR, dollars=10)
    platform.base_model()
    job = JobOf(client, platform, operator, platform.dataset(operator))
    job.train()
    job.register()
    platform.project()
    gets = {each.removeprefix("GET ") for each in core()[0] if each.startswith("GET ")}
    pages = sorted(each for each in gets if "{" not in each and not each.startswith("/api"))
    pages.append(f"/fine-tune/{job.name}")
    added = {each.partition(" ")[2] for one in installed() for each in own_parts(one)[0]}
    patterns = [compile_path(each)[0] for each in added]

    def to_extensions(found: set[str]) -> set[str]:
        return {each for each in found if any(pattern.match(each) for pattern in patterns)}

    if installed():
        assert to_extensions(links(client, operator.key, pages))
    monkeypatch.setenv(SELECTION, "")
    migration = [sys.executable, "-m", "deploy.migrate"]
    subprocess.run(migration, check=True, env=os.environ | environment(settings))
    with running_gateway(settings) as gateway, httpx.Client(base_url=gateway.url) as other:
        found = links(other, operator.key, pages)
    assert f"/fine-tune/{job.name}" in found
    assert not to_extensions(found)
