"""The page of each operator command, or the reason why the command runs only on the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import typer

from deploy.cli import main
from gateway import cli as client
from tests.docs import markdown
from tests.docs.markdown import code, text
from tests.extension_modules import extension_modules


class Page(NamedTuple):
    """Routes of the gateway that do what a command does."""

    routes: tuple[tuple[str, str], ...]
    """Methods with paths. The first one is the page."""
    note: str = ""


class Host(NamedTuple):
    """The reason why a command runs only on the host."""

    reason: str


def page_at(path: str, *posts: str, note: str = "") -> Page:
    """A page, and the paths of the commands on it."""
    return Page((("GET", path), *(("POST", each) for each in posts)), note)


ACCOUNT = "/ops/accounts/{account_id}"
PREVIEW, SAVE = "/ops/catalog/preview", "/ops/catalog/changes"
GPU_TYPE = page_at("/ops/catalog/gpu-types/{name}", PREVIEW, SAVE)
REGION = page_at("/ops/catalog/regions/{name}", PREVIEW, SAVE)
BASE = page_at("/ops/catalog/bases/{name}", PREVIEW, SAVE)
SUPERVISOR = Host("It starts or stops the processes, and the gateway is one of them.")
OFFLINE = Host(
    "An auditor runs it on their own machine, because a page of the server proves nothing about it."
)

COMMANDS: Mapping[str, Page | Host] = {
    "up": SUPERVISOR,
    "down": SUPERVISOR,
    "status": page_at("/ops"),
    "sign-in": Host("It signs in the person who controls the host, without a key."),
    "demo": Host("It starts an EcoLink of its own for a demonstration."),
    "demo-autopause": Host("It starts an EcoLink of its own for a demonstration."),
    "models import": Host(
        "It reads a directory of the host or downloads gigabytes, and needs the training libraries."
        " `/ops/catalog` shows which base models are imported and deployed."
    ),
    "models verify": Host(
        "It reads all files of the model, and can compare a downloaded copy on this machine. The "
        "page `/audit/verification` compares the stored adapters of all models with the log."
    ),
    "models delete-base": page_at("/models", "/models/bases/{model}/delete"),
    "audit verify": page_at("/audit/verification", "/audit/verification"),
    "audit key": page_at("/ops/seals"),
    "audit head": page_at("/ops/seals"),
    "audit verify-head": OFFLINE,
    "audit replay": page_at("/audit"),
    "audit why": page_at("/audit/events/{position}"),
    "audit show job": page_at("/audit/jobs/{job}"),
    "audit show account": page_at("/audit/accounts/{account_id}"),
    "catalog show": page_at("/ops/catalog"),
    "catalog capacity": REGION,
    "catalog gpu-types set": GPU_TYPE,
    "catalog gpu-types withdraw": GPU_TYPE,
    "catalog regions set": REGION,
    "catalog regions withdraw": REGION,
    "catalog bases set": BASE,
    "catalog bases withdraw": BASE,
    "catalog bases deploy": page_at("/models", "/models/bases/{model}/deploy"),
    "catalog bases undeploy": page_at("/models", "/models/bases/{model}/undeploy"),
    "doctor": page_at("/ops/checks", note="without the ports, secrets and seal key of the host"),
    "estimates report": page_at("/ops/estimates"),
    "upgrade status": page_at("/ops"),
    "upgrade finish": Host("It has no way back, so it needs a shell with the new version."),
    "events subscribe": page_at("/audit", note="recorded events, newest first, instead of live"),
    "events asyncapi": Host(
        "It prints a document of this version, [asyncapi.yaml](asyncapi.yaml)."
    ),
    "events empty-stream": Host("It deletes the stream, with credentials that only the host has."),
    "events parked": page_at("/ops/parked"),
    "events replay": page_at("/ops/parked", "/ops/parked/{consumer}/{notification_id}/replay"),
    "nats-config": Host("It writes the private keys of a NATS server."),
    "docker init": Host("It writes the passwords of the servers, before any process runs."),
    "projections rebuild": Host(
        "Only the owner of the tables may replace a read model. The page `/ops` shows how far each "
        "projection is."
    ),
    "security events": page_at("/ops/security"),
    "security limits": page_at("/ops/security"),
    "security replace-secrets": Host("EcoLink must not run."),
    "trainer-log": page_at("/ops/jobs/{job}/trainer-log"),
    "accounts create": page_at("/ops/accounts", "/ops/accounts"),
    "accounts keys issue": page_at(ACCOUNT, f"{ACCOUNT}/keys"),
    "accounts keys list": page_at(ACCOUNT),
    "accounts keys revoke": page_at(ACCOUNT, f"{ACCOUNT}/keys/{{key_id}}/revoke"),
    "accounts erase": page_at(ACCOUNT, f"{ACCOUNT}/erase"),
    "accounts suspend": page_at(ACCOUNT, f"{ACCOUNT}/suspend"),
    "accounts reinstate": page_at(ACCOUNT, f"{ACCOUNT}/reinstate"),
    "accounts list": page_at("/ops/accounts"),
    "accounts credit": page_at(ACCOUNT, f"{ACCOUNT}/credits"),
    "accounts top-up": page_at(ACCOUNT, f"{ACCOUNT}/top-ups"),
}
"""All operator commands of the core. A test fails if one is missing here."""


def commands() -> dict[str, Page | Host]:
    """All operator commands, with those of extensions."""
    found = dict(COMMANDS)
    for each in extension_modules("reference"):
        found |= getattr(each, "OPERATOR_COMMANDS", {})
    return found


def operator_commands() -> dict[str, Any]:
    """The commands of operators by name, without the command of the program."""
    root: Any = typer.main.get_command(main)
    own = set(client.GROUPS) | {"login", "logout", "whoami"}
    found = dict(_commands(root, ""))
    return {
        name: each
        for name, each in found.items()
        if name.split()[0] not in own or each.callback.__module__.startswith("deploy.")
    }


def _commands(group: Any, above: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def page() -> str:
    """Every operator command with its page, then those that only the host can run."""
    pages = {name: each for name, each in commands().items() if isinstance(each, Page)}
    host = {name: each for name, each in commands().items() if isinstance(each, Host)}
    return markdown.page(
        "Operator pages",
        "This page lists the page of each operator command, and the commands that only the host of "
        "EcoLink can run, with the reason. A test fails if a command is missing.",
        markdown.section(
            "Commands with a page",
            markdown.table(("command", "page", "note"), map(_page_row, pages, pages.values())),
        ),
        markdown.section(
            "Commands that run on the host",
            markdown.table(("command", "reason"), map(_host_row, host, host.values())),
        ),
    )


def _page_row(name: str, page: Page) -> tuple[str, ...]:
    (_, path), *_ = page.routes
    return code(f"ecolink {name}"), code(path), text(page.note)


def _host_row(name: str, host: Host) -> tuple[str, ...]:
    return code(f"ecolink {name}"), host.reason
