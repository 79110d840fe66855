"""`ecolink accounts`, which manages accounts, credit, payments and API keys on this host."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from deploy.operator.store import open_store
from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.billing.suspension import SuspensionReason
from domain.core.errors import Invalid, NotFound
from domain.core.money import dollars, payment_micros_of
from domain.use_cases.erasing import Erasing, kept_card
from gateway.accounts.opening import open_named
from gateway.cli.keys import ExpiresOption, RoleOption, ScopeOption
from gateway.cli.terminal import screen
from infrastructure.accounts.key_uses import last_uses
from infrastructure.accounts.personal_data import delete_personal_data, endings, holdings_of
from infrastructure.accounts.profiles import account_id_of, account_names, key_names, set_key_name
from infrastructure.artifacts.store import Artifacts
from infrastructure.payments.provider import card_provider, provider_named
from projections import ACCOUNTS, API_KEYS
from projections.accounts import all_accounts
from projections.api_keys import keys_of

console = Console(highlight=False, markup=False)  # names can contain brackets

accounts = typer.Typer(no_args_is_help=True, help="Manage accounts, their credit and their keys.")
keys = typer.Typer(no_args_is_help=True, help="Manage the API keys of an account.")
accounts.add_typer(keys, name="keys")

Name = Annotated[str, typer.Argument(help="Name of the account.", show_default=False)]


@accounts.command("create")
def create_account(
    name: Name,
    role: Annotated[
        Role,
        typer.Option(
            help="Rights of its keys. An auditor reads all accounts and changes nothing.",
            metavar="owner|operator|auditor",
        ),
    ] = Role.OWNER,
    time_zone: Annotated[
        str, typer.Option(help="Time zone of the account's statements, such as Asia/Tokyo.")
    ] = "UTC",
) -> None:
    """Create an account."""
    with open_store() as store:
        opened = open_named(store.connection, store.ecolink, name, role, time_zone)
        console.print(f"Opened {name} ({role}): {opened.id}")


@accounts.command("list")
def list_accounts() -> None:
    """List all accounts with their balances."""
    with open_store() as store:
        store.fold(ACCOUNTS)
        names = account_names(store.connection)
        table = Table(
            "name", "role", "balance", "reserved", "opened", "suspended", "account", box=None
        )
        for row in all_accounts(store.connection):
            table.add_row(
                names.get(row["account_id"], ""),
                row["role"],
                dollars(row["balance_micros"]),
                dollars(row["reserved_micros"]),
                f"{row['opened_at']:%Y-%m-%d %H:%M}",
                "erased" if row["erased"] else row["suspension"] or "",
                str(row["account_id"]),
            )
        screen().print(table)


@accounts.command("credit")
def credit_account(
    name: Name,
    amount: Annotated[
        str, typer.Argument(help="Amount in dollars, such as 25.00.", show_default=False)
    ],
    reference: Annotated[
        str, typer.Option(help="Purpose of the credit. EcoLink adds each reference only once.")
    ],
) -> None:
    """Grant a credit to an account. EcoLink adds each reference only once."""
    with open_store() as store:
        amount_micros = payment_micros_of(amount, field="amount")
        account = store.ecolink.grant_credit(store.account(name), amount_micros, reference)
        console.print(f"The balance of {name} is {dollars(account.balance_micros)}.")


@accounts.command("top-up")
def top_up_account(
    name: Name,
    amount: Annotated[
        str, typer.Argument(help="Amount in dollars, such as 25.00.", show_default=False)
    ],
    reference: Annotated[
        str, typer.Option(help="Reference of the payment. EcoLink adds each reference only once.")
    ],
    provider: Annotated[
        str, typer.Option(help="Payment provider that received the money.")
    ] = "manual",
) -> None:
    """Confirm a received payment. EcoLink adds each reference only once."""
    with open_store() as store:
        amount_micros = payment_micros_of(amount, field="amount")
        named = provider_named(store.settings, provider)
        receipt = named.receipt(reference, amount_micros)
        account = store.ecolink.top_up(store.account(name), receipt)
        console.print(f"The balance of {name} is {dollars(account.balance_micros)}.")


@accounts.command("suspend")
def suspend_account(
    name: Name,
    reason: Annotated[
        SuspensionReason, typer.Option(help="Reason, which the account holder sees.")
    ],
) -> None:
    """Suspend an account. It can only read, its jobs pause, and its deployments stop."""
    with open_store() as store:
        store.ecolink.suspend(store.account(name), reason)
        console.print(f"{name} is suspended. {reason.sentence}")


@accounts.command("reinstate")
def reinstate_account(name: Name) -> None:
    """End the suspension of an account. Its jobs stay paused until their owner resumes them."""
    with open_store() as store:
        store.ecolink.reinstate(store.account(name))
        console.print(f"{name} is reinstated.")


@accounts.command("erase")
def erase_account(
    name: Annotated[str, typer.Argument(help="Name or ID of the account.", show_default=False)],
    confirm: Annotated[
        str | None,
        typer.Option(help="The same name or ID again. Without it, the command asks for it."),
    ] = None,
) -> None:
    """Erase the personal data of a suspended account. You cannot undo this.

    Revokes its keys, removes its card, cancels its jobs, and deletes its models, datasets, logs,
    webhooks and names. The event log, the ledger and the invoices stay, with the ID of the account.
    You can repeat the command.
    """
    with open_store() as store:
        account_id = account_id_of(store.connection, name)
        if account_id is None:
            raise NotFound(f"Unknown account {name!r}. See `ecolink accounts list`.")
        if confirm is None:
            confirm = typer.prompt(f"Enter {name} again to erase the account")
        if confirm != name:
            raise Invalid(f"{confirm!r} is not {name!r}. Nothing was erased.", field="confirm")
        cards = card_provider()
        end_others = endings(store.log, store.connection)
        erasing = Erasing(store.log, None if cards is None else cards.remove_cards, end_others)
        erasing.erase(account_id, holdings_of(store.connection, account_id))
        artifacts = Artifacts(store.settings.artifacts)
        deleted = delete_personal_data(store.connection, artifacts, account_id)
        kept = kept_card(store.log, account_id)
        console.print(
            f"Erased the account {account_id}: {deleted.rows:,} rows and {deleted.files:,} files. "
            f"Earlier backups still have them. Prune these backups.{kept}"
        )


@keys.command("issue")
def issue_key(
    name: Name,
    key_name: Annotated[str | None, typer.Option("--name", help="What the key is for.")] = None,
    role: RoleOption = None,
    scope: ScopeOption = None,
    expires: ExpiresOption = None,
) -> None:
    """Create an API key and show its secret. EcoLink cannot show the secret again."""
    with open_store() as store:
        wanted = KeyRequest(role, scope or None, expires)
        key, secret = store.ecolink.issue_key(store.account(name), wanted)
        if key_name:
            set_key_name(store.connection, key.id, key_name)
        console.print(
            f"Created key {key.id} of {name}. Save its secret, because EcoLink does not show it "
            "again:"
        )
        print(secret)


@keys.command("list")
def list_keys(name: Name) -> None:
    """List an account's API keys with their scopes and their last use."""
    with open_store() as store:
        account_id = store.account(name)
        store.fold(API_KEYS)
        table = Table(
            *("key", "name", "ends in", "role", "scopes"),
            *("issued", "last used", "expires", "revoked"),
            box=None,
        )
        rows = keys_of(store.connection, account_id)
        key_ids = [row["key_id"] for row in rows]
        names, uses = key_names(store.connection, key_ids), last_uses(store.connection, key_ids)
        for row in rows:
            table.add_row(
                str(row["key_id"]),
                names.get(row["key_id"], ""),
                row["hint"],
                row["role"],
                " ".join(row["scopes"]),
                _minute(row["issued_at"]),
                _minute(uses.get(row["key_id"])),
                _minute(row["expires_at"]),
                _minute(row["revoked_at"]),
            )
        screen().print(table)


def _minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


@keys.command("revoke")
def revoke_key(
    name: Name, key: Annotated[UUID, typer.Argument(help="ID of the key.", show_default=False)]
) -> None:
    """Revoke an API key immediately."""
    with open_store() as store:
        store.ecolink.revoke_key(store.account(name), key)
        console.print(f"Key {key} of {name} is revoked.")
