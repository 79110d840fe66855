"""Deploying from the command line: asking for it, and waiting until the model answers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import typer

from gateway.cli import tables
from gateway.cli.client import Client
from gateway.cli.exits import ExitCode
from gateway.cli.following import breathe, patiently
from gateway.cli.terminal import interrupted, show

ENDINGS = {"active": ExitCode.DONE, "failed": ExitCode.FAILED, "undeployed": ExitCode.FAILED}
"""What waiting for a deployment ends with, by its status."""


def give_deployment(client: Client, path: str, follow: bool, as_json: bool) -> None:
    """Ask for a deployment, and wait until it answers or cannot; raises ClientError."""
    deployment = client.post(path, {})
    model = quote(deployment["model"])
    try:
        while follow and deployment["status"] not in ENDINGS:
            breathe()
            deployment: dict[str, Any] = patiently(
                lambda: client.get(f"/models/{model}/deployment")
            )
    except KeyboardInterrupt:
        interrupted("\nThe deployment goes on: `ecolink models deployments` shows it.")
    show(deployment, as_json, tables.deployment)
    if follow:
        raise typer.Exit(ENDINGS[deployment["status"]])
