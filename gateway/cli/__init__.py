"""Commands of account holders, by group. All of them call the API."""

from gateway.cli.billing import billing
from gateway.cli.datasets import datasets
from gateway.cli.exits import epilog
from gateway.cli.jobs import jobs
from gateway.cli.keys import keys
from gateway.cli.models import models
from gateway.cli.session import session
from gateway.cli.terminal import Commands
from infrastructure.extensions import wanted

GROUPS = {
    "datasets": datasets,
    "jobs": jobs,
    "models": models,
    "billing": billing,
    "keys": keys,
}


def _add_extensions() -> None:
    for extension in wanted():  # they need no packages: only the server does
        for name, reference in extension.commands.items():
            group = extension.load(reference)
            if name in GROUPS:
                GROUPS[name].add_typer(group)
            else:
                GROUPS[name] = group


_add_extensions()

__all__ = ["GROUPS", "Commands", "epilog", "models", "session"]
