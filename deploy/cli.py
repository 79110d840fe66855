"""The `ecolink` command, which combines the commands of account owners and of the operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from deploy.demo.commands import commands as demo_commands
from deploy.docker.commands import commands as docker_commands
from deploy.endpoint import LocalFinder
from deploy.local.commands import commands as local_commands
from deploy.operator.accounts import accounts
from deploy.operator.audit import commands as audit_commands
from deploy.operator.catalog import commands as catalog_commands
from deploy.operator.doctor import commands as doctor_commands
from deploy.operator.estimates import commands as estimates_commands
from deploy.operator.events import commands as events_commands
from deploy.operator.heads import head, verify_head
from deploy.operator.models import delete_base, import_model, verify_model
from deploy.operator.nats_config import commands as nats_config_commands
from deploy.operator.parked import commands as parked_commands
from deploy.operator.projections import commands as projections_commands
from deploy.operator.replay import replay, show, why
from deploy.operator.security import commands as security_commands
from deploy.operator.trainer_log import commands as trainer_log_commands
from deploy.operator.upgrade import commands as upgrade_commands
from domain.core.event_format import NewerEvent, NewerFormat
from gateway import cli as client
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import fail
from infrastructure.extensions import loaded
from infrastructure.extras import MissingExtra

HOST = "Operator commands, on the host"


class Commands(client.Commands):
    """Group of all commands. It reports data of a newer EcoLink, and missing packages."""

    def invoke(self, ctx: Any) -> Any:
        """Run the requested command."""
        try:
            return super().invoke(ctx)
        except (NewerEvent, NewerFormat, MissingExtra) as error:
            fail(str(error), ExitCode.FAILED)


main = client.application(Commands, LocalFinder)
client.GROUPS["models"].command("import")(import_model)
client.GROUPS["models"].command("verify")(verify_model)
client.GROUPS["models"].command("delete-base")(delete_base)
audit_commands.command("head")(head)
audit_commands.command("verify-head")(verify_head)
audit_commands.command("replay")(replay)
audit_commands.command("why")(why)
audit_commands.add_typer(show)
events_commands.add_typer(parked_commands)
for commands in (
    local_commands,
    demo_commands,
    audit_commands,
    catalog_commands,
    doctor_commands,
    estimates_commands,
    events_commands,
    nats_config_commands,
    projections_commands,
    security_commands,
    trainer_log_commands,
    upgrade_commands,
):
    main.add_typer(commands, rich_help_panel=HOST)
main.add_typer(docker_commands, name="docker", rich_help_panel=HOST)
main.add_typer(accounts, name="accounts", rich_help_panel=HOST)
found = [(each.name, each.typer_instance) for each in main.registered_groups]
groups = {name or group.info.name: group for name, group in found if group is not None}
added: Iterator[typer.Typer] = loaded(lambda extension: extension.operator_commands)
for commands in added:
    if group := groups.get(commands.info.name):
        group.add_typer(commands, name="")
    else:
        main.add_typer(commands, rich_help_panel=HOST)
