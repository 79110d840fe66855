"""The operator's commands on the host: accounts, keys and base models, straight on the store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4
from zoneinfo import available_timezones

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.errors import StackError
from deploy.local.stack import stack
from domain.access.role import Role
from domain.billing.account import Account
from domain.catalog.catalog import Catalog
from domain.core.aggregate import Cause, because
from domain.core.errors import DomainError, Invalid, NotFound
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID
from domain.core.money import dollars, payment_micros_of
from domain.use_cases.accounts import EcoLink
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import AsJson, fail, screen
from infrastructure.clock import clock_of
from infrastructure.consumer import OrderedConsumer
from infrastructure.imported_model import ImportedModel
from infrastructure.payments import provider_named
from infrastructure.profiles import account_named, account_names, add_account_name
from infrastructure.settings import Settings
from infrastructure.store import Connection, connect, open_log
from projections import ACCOUNTS, API_KEYS
from projections.accounts import all_accounts
from projections.api_keys import keys_of
from projections.projection import Projection, ProjectionEffect

console = Console(highlight=False, markup=False)  # names may hold brackets

accounts = typer.Typer(
    no_args_is_help=True, help="Accounts, their credit and their keys, on this host."
)
keys = typer.Typer(no_args_is_help=True, help="API keys of an account, on this host.")
accounts.add_typer(keys, name="keys")

Name = Annotated[str, typer.Argument(help="The account's name.", show_default=False)]


@dataclass(frozen=True)
class Store:
    """An open store; the use cases act for the operator on the host."""

    settings: Settings
    log: EventLog
    connection: Connection

    @property
    def ecolink(self) -> EcoLink:
        """The use cases."""
        return EcoLink(self.log)

    @property
    def catalog(self) -> Catalog:
        """The catalog as it is now."""
        return self.log.load(Catalog, CATALOG_ID)

    def account(self, name: str) -> UUID:
        """The account with a name; raises NotFound."""
        account_id = account_named(self.connection, name)
        if account_id is None:
            raise NotFound(f"There is no account named {name}.")
        return account_id

    def fold(self, projection: Projection) -> None:
        """Bring a projection up to date; a projector that runs as well finds less to do."""
        effect = ProjectionEffect(projection, lambda: connect(self.settings))
        OrderedConsumer(effect, self.log).catch_up()


@contextmanager
def open_store() -> Generator[Store]:
    """The store of the running stack, or of its servers started for a while.

    What is done inside has one cause; a refusal is one sentence, and exit status 1.
    """
    try:
        with stack(Settings(), {}) as settings, open_log(settings) as log:
            cause = Cause("operator:host", str(uuid4()), clock_of(settings).now())
            with connect(settings) as connection, because(cause):
                yield Store(settings, log, connection)
    except (StackError, DomainError) as error:
        fail(str(error), ExitCode.FAILED)


@accounts.command("create")
def create_account(
    name: Name,
    role: Annotated[Role, typer.Option(help="What its holder may do.")] = Role.USER,
    time_zone: Annotated[str, typer.Option(help="Of its statements, such as Asia/Tokyo.")] = "UTC",
) -> None:
    """Open an account under a name that is not taken."""
    with open_store() as store:
        if time_zone not in available_timezones():
            raise Invalid(f"{time_zone} is not the name of a time zone, such as Europe/Berlin.")
        # The name first: an account that a crash left unopened behind it is opened now.
        account_id = add_account_name(store.connection, uuid4(), name)
        if store.log.find(Account, account_id) is not None:
            raise Invalid(f"There is an account named {name} already.")
        store.ecolink.open_account(account_id, role, time_zone)
        console.print(f"Opened {name} ({role}): {account_id}")


@accounts.command("list")
def list_accounts() -> None:
    """Every account with its balance."""
    with open_store() as store:
        store.fold(ACCOUNTS)
        names = account_names(store.connection)
        table = Table("name", "role", "balance", "reserved", "opened", "account", box=None)
        for row in all_accounts(store.connection):
            table.add_row(
                names.get(row["account_id"], ""),
                row["role"],
                dollars(row["balance_micros"]),
                dollars(row["reserved_micros"]),
                f"{row['opened_at']:%Y-%m-%d %H:%M}",
                str(row["account_id"]),
            )
        screen().print(table)


@accounts.command("credit")
def credit_account(
    name: Name,
    amount: Annotated[str, typer.Argument(help="Dollars, such as 25.00.", show_default=False)],
    reference: Annotated[str, typer.Option(help="What it is for; the same one counts once.")],
) -> None:
    """Give an account credit, once for each reference."""
    with open_store() as store:
        amount_micros = payment_micros_of(amount, field="amount")
        account = store.ecolink.grant_credit(store.account(name), amount_micros, reference)
        console.print(f"The balance of {name} is {dollars(account.balance_micros)}.")


@accounts.command("top-up")
def top_up_account(
    name: Name,
    amount: Annotated[str, typer.Argument(help="Dollars, such as 25.00.", show_default=False)],
    reference: Annotated[str, typer.Option(help="The payment's; it counts once.")],
    provider: Annotated[str, typer.Option(help="Who received the money.")] = "manual",
) -> None:
    """Confirm a payment; the same reference again adds nothing more."""
    with open_store() as store:
        amount_micros = payment_micros_of(amount, field="amount")
        named = provider_named(store.settings, provider)
        receipt = named.receipt(reference, amount_micros)
        account = store.ecolink.top_up(store.account(name), receipt)
        console.print(f"The balance of {name} is {dollars(account.balance_micros)}.")


@keys.command("issue")
def issue_key(name: Name) -> None:
    """Make an API key; its secret is shown this once."""
    with open_store() as store:
        key, secret = store.ecolink.issue_key(store.account(name))
        console.print(f"Key {key.id} of {name}; keep its secret, it is not shown again:")
        print(secret)


@keys.command("list")
def list_keys(name: Name) -> None:
    """An account's keys, told apart by their last characters."""
    with open_store() as store:
        account_id = store.account(name)
        store.fold(API_KEYS)
        table = Table("key", "ends in", "issued", "revoked", box=None)
        for row in keys_of(store.connection, account_id):
            revoked = row["revoked_at"]
            table.add_row(
                str(row["key_id"]),
                row["hint"],
                f"{row['issued_at']:%Y-%m-%d %H:%M}",
                f"{revoked:%Y-%m-%d %H:%M}" if revoked else "",
            )
        screen().print(table)


@keys.command("revoke")
def revoke_key(
    name: Name, key: Annotated[UUID, typer.Argument(help="Id of the key.", show_default=False)]
) -> None:
    """End an API key at once."""
    with open_store() as store:
        store.ecolink.revoke_key(store.account(name), key)
        console.print(f"Key {key} is revoked.")


def import_model(
    source: Annotated[
        str,
        typer.Argument(help="Hugging Face repository, directory or GGUF file.", show_default=False),
    ],
    name: Annotated[
        str | None, typer.Option(help="Default: the catalog's, or the source's last part.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import a base model into the model store, on this host, and offer it."""
    with open_store() as store:
        chosen = name or default_name(store.catalog, source)
        imported = offer_model(store.settings, store.ecolink, source, chosen)
    if as_json:
        print(imported.model_dump_json(indent=1))
    else:
        console.print(
            f"Imported {imported.name}: {imported.architecture} with "
            f"{imported.shape.parameters:,} parameters and a context of "
            f"{imported.shape.context_length} tokens."
        )


def default_name(catalog: Catalog, source: str) -> str:
    """The catalog's name for a repository that it lists, else the last part of the source."""
    listed = (base.name for base in catalog.bases.values() if base.repository == source)
    return next(listed, Path(source).name.removesuffix(".gguf"))


def offer_model(settings: Settings, ecolink: EcoLink, source: str, name: str) -> ImportedModel:
    """Import a base model and offer it to everyone; runs inside `because`."""
    imported = run_import(settings, source, name)
    ecolink.import_base_model(
        imported.name,
        imported.ref,
        imported.manifest_sha256,
        imported.architecture,
        imported.shape.parameters,
        imported.shape.context_length,
        imported.shape,
    )
    return imported


def run_import(settings: Settings, source: str, name: str) -> ImportedModel:
    """Run the import in a process of its own, which alone needs the training stack.

    Its progress goes to standard error. Raises StackError if it fails.
    """
    importer = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "services.model_import"),
            *("--source", source, "--name", name),
        ],
        env=os.environ | {"ECOLINK_ARTIFACTS_URL": settings.artifacts},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    if importer.returncode != 0:
        raise StackError(f"{source} could not be imported.")
    return ImportedModel.model_validate_json(importer.stdout.splitlines()[-1])
