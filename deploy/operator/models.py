"""`ecolink models import`, `verify` and `delete-base`, the operator's commands for models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.text import Text

from deploy.operator.model_import import default_name, offer_model
from deploy.operator.store import Store, open_store
from domain.jobs import events
from domain.jobs.job import Job
from domain.use_cases.deployments import Deploying
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import AsJson, fail
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts
from infrastructure.extensions import installed
from projections import DEPLOYMENTS, JOB_DETAIL, MODELS
from projections.base_uses import uses_of_base
from projections.models import job_of_model
from services.scheduler.verification import Check, DirectoryCopy, StoredCopy, verify


def import_model(
    source: Annotated[
        str,
        typer.Argument(help="Hugging Face repository, directory or GGUF file.", show_default=False),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the base model. Default: the catalog's name, or the last part of the "
            "source."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import a base model into the model store and make it available to all accounts."""
    with open_store() as store:
        chosen = name or default_name(store.catalog, source)
        imported = offer_model(store.settings, store.ecolink, source, chosen)
    if as_json:
        print(imported.model_dump_json(indent=1))
    else:
        typer.echo(
            f"Imported {imported.name}: {imported.architecture} with "
            f"{imported.shape.parameters:,} parameters and a context of "
            f"{imported.shape.context_length:,} tokens."
        )


def verify_model(
    name: Annotated[
        str, typer.Argument(help="Name of the model, such as ft:…", show_default=False)
    ],
    directory: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Directory of a downloaded copy. Default: the copy in the artifact store.",
        ),
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(
            help="Verify the export in this format instead of the adapter.",
            metavar="FORMAT",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a model's files with its manifest, and its provenance with the event log.

    The exit status is 0 if everything agrees, 1 if something differs, and 4 if the model does not
    exist.
    """
    with open_store() as store:
        store.fold(MODELS)
        job_id = job_of_model(store.connection, name)
        if job_id is None:
            fail(f"Unknown model {name!r}. See `ecolink models list`.", ExitCode.NOT_FOUND)
        try:
            if export is None:
                checks = _verify(store, job_id, directory)
            else:
                checks = _verify_export(store, job_id, export, directory)
        except ArtifactCorrupt as error:
            fail(f"The files of {name} are damaged: {error}", ExitCode.FAILED)
    if as_json:
        typer.echo(json.dumps(_answer(name, checks), indent=1))
    else:
        _show(checks)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


def delete_base(
    name: Annotated[str, typer.Argument(help="Name of the base model.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Delete an imported base model and its files for all accounts.

    You cannot delete a base model while unfinished jobs or deployments use it. After the deletion,
    you can no longer deploy models that were trained on it.
    """
    with open_store() as store:

        def uses() -> list[str]:
            store.fold(JOB_DETAIL)
            store.fold(DEPLOYMENTS)
            return uses_of_base(store.connection, name)

        Deploying(store.log).delete_base(name, uses)
    if as_json:
        typer.echo(json.dumps({"base_model": name, "deleted": True}))
    else:
        typer.echo(f"Deleted {name}. To restore it, import and deploy it again.")


def _verify(store: Store, job_id: UUID, directory: Path | None) -> list[Check]:
    job = store.log.load(Job, job_id)
    (event,) = (
        each
        for each in store.log.events.get(job_id)
        if isinstance(each, events.Registered | events.AdapterPromoted)
    )
    artifacts = Artifacts(store.settings.artifacts)
    copy = DirectoryCopy(directory) if directory else StoredCopy(artifacts, event.adapter_ref)
    return verify(store.log, artifacts, job, event, copy)


def _verify_export(store: Store, job_id: UUID, format: str, directory: Path | None) -> list[Check]:
    """Return the checks of an extension. Raise BadParameter if none exports models."""
    for extension in installed():
        if extension.verify_export:
            checks: list[Check] = extension.load(extension.verify_export)(
                store, job_id, format, directory
            )
            return checks
    raise typer.BadParameter("No extension that exports models is installed.")


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
    console.print(f"Checks: {len(checks):,}, of which {differing:,} differ.")
