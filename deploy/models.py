"""`ecolink models verify`: a model held against the event log, on this host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.text import Text

from deploy.operator import Store, open_store
from domain.job import Job
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import fail
from infrastructure.artifacts import Artifacts
from projections import MODELS
from projections.models import job_of_model
from services.scheduler.verification import Check, DirectoryCopy, StoredCopy, verify


def verify_model(
    name: Annotated[str, typer.Argument(help="Of the model, such as ft:…", show_default=False)],
    directory: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="A downloaded copy; else what the artifact store has.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Hold every file of a model against its manifest, and its provenance against the event log.

    Exit status 0: all is as it has to be; 1: something differs; 4: there is no such model.
    """
    with open_store() as store:
        store.fold(MODELS)
        job_id = job_of_model(store.connection, name)
        if job_id is None:
            fail(f"There is no model {name}.", ExitCode.NOT_FOUND)
        checks = _verify(store, job_id, directory)
    if as_json:
        typer.echo(json.dumps(_answer(name, checks), indent=1))
    else:
        _show(checks)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


def _verify(store: Store, job_id: UUID, directory: Path | None) -> list[Check]:
    job = store.log.load(Job, job_id)
    (event,) = (
        each
        for each in store.log.events.get(job_id)
        if isinstance(each, Job.Registered | Job.AdapterPromoted)
    )
    artifacts = Artifacts(store.settings.artifacts)
    copy = DirectoryCopy(directory) if directory else StoredCopy(artifacts, event.adapter_ref)
    return verify(store.log, artifacts, job, event, copy)


def _answer(name: str, checks: Sequence[Check]) -> dict[str, object]:
    return {
        "model": name,
        "ok": all(check.ok for check in checks),
        "checks": [
            {"check": each.name, "ok": each.ok, "expected": each.expected, "found": each.found}
            for each in checks
        ],
    }


def _show(checks: Sequence[Check]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for check in checks:
        if check.ok:
            console.print(Text.assemble(("ok      ", "green"), f" {check.name}"))
        else:
            expected = f" {check.name}: expected {check.expected}; found {check.found}"
            console.print(Text.assemble(("differs ", "red"), expected))
    differing = sum(not check.ok for check in checks)
    console.print(f"{len(checks)} checks, {differing} differ.")
