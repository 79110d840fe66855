"""Commands of account holders, by group. All of them call the API."""

from gateway.cli.billing import billing
from gateway.cli.datasets import datasets
from gateway.cli.exits import epilog
from gateway.cli.invoices import invoices
from gateway.cli.jobs import jobs
from gateway.cli.keys import keys
from gateway.cli.models import models
from gateway.cli.session import session
from gateway.cli.syntheses import syntheses
from gateway.cli.terminal import Commands
from infrastructure.extensions import selected

GROUPS = {
    "datasets": datasets,
    "syntheses": syntheses,
    "jobs": jobs,
    "models": models,
    "billing": billing,
    "invoices": invoices,
    "keys": keys,
}
for _extension in selected():
    for _name, _group in _extension.commands.items():
        if _name in GROUPS:
            GROUPS[_name].add_typer(_extension.load(_group))
        else:
            GROUPS[_name] = _extension.load(_group)

__all__ = ["GROUPS", "Commands", "epilog", "models", "session"]
