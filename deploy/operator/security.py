"""`ecolink security`, which shows security events and limits, and replaces secrets."""

from __future__ import annotations

from typing import Annotated, LiteralString
from uuid import uuid4

import psycopg
import typer
from rich.console import Console
from rich.table import Table

from deploy.demo.account import acting_for_the_demo, demo_account
from deploy.endpoint import DEMO_KEY
from deploy.local.errors import StackError
from deploy.local.home import Home, Passwords, write_private
from deploy.local.nats import NatsServer
from deploy.local.pods import stop_pods
from deploy.local.postgres import PostgresServer
from deploy.local.stack import up
from deploy.operator.store import open_store
from domain.access.api_key import secret_sha256
from domain.core.identity import api_key_id
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import fail
from infrastructure.accounts import security_log
from infrastructure.artifacts.store import Artifacts
from infrastructure.extensions import installed
from infrastructure.http.limits import Limits
from infrastructure.seals.archive import SEALS, LastHead
from infrastructure.settings import Settings

commands = typer.Typer(
    name="security",
    no_args_is_help=True,
    help="Show security events and limits, or replace secrets.",
)
console = Console(highlight=False, markup=False)


@commands.command()
def events(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of events.")] = 100,
) -> None:
    """Show lockouts and repeated refusals with the client's address, newest first.

    EcoLink deletes these events after ECOLINK_SECURITY_EVENT_RETENTION_DAYS days.
    """
    with open_store() as store:
        rows = security_log.newest(store.connection, limit)
    if not rows:
        console.print("There are no security events.")
    for row in rows:
        at = f"{row['happened_at']:%Y-%m-%dT%H:%M:%SZ}"
        print(f"{at}  {row['kind']:<17}  {row['address']:<39}  {row['detail']}")


@commands.command()
def limits() -> None:
    """Show all limits with their defaults and scopes. Set ECOLINK_LIMITS to change them."""
    now = Limits(Settings().limits)
    table = Table(box=None, pad_edge=False)
    for heading in ("limit", "value", "default", "scope", "counts"):
        table.add_column(heading, justify="right" if heading in ("value", "default") else "left")
    for limit in now.declared.values():
        per = f" / {limit.per_seconds} s" if limit.per_seconds else ""
        values = (f"{now[limit.name]:,}{per}", f"{limit.default:,}{per}")
        table.add_row(limit.name, *values, limit.scope, limit.description)
    console.print(table)


RECORDS: tuple[LiteralString, ...] = (
    "DELETE FROM web_sessions",
    "DELETE FROM sign_in_links",
    "DELETE FROM ecolink_snapshots",  # signed with the old secret, and made again from the log
    *(each for extension in installed() for each in extension.renewals),
)
"""Statements that replace the secrets in the database, or delete what depends on them."""

NOT_REPLACED = """Replace the others yourself:
- at their providers, then in the settings: keys of Stripe, S3 and external servers, tokens, and
  passwords of mail, MLflow, PostgreSQL and NATS servers that EcoLink does not run
- API keys that a file on this machine contains, such as those of `ecolink login`
- with their owners: secrets of webhooks, of trackers and of external endpoints
Give auditors the new `ecolink audit key`."""


@commands.command("replace-secrets")
def replace_secrets() -> None:
    """Replace all secrets of EcoLink in ECOLINK_HOME. EcoLink must not run.

    The command replaces the passwords of PostgreSQL, all keys of NATS with those of trainers, the
    secrets of serving and snapshots, the seal key, the demo account's API key, and the keys of
    links in e-mails. It ends all browser sessions and sign-in links. Data remains, and seals of
    the old key move to the folder `seals-before-replacement` of the artifact store. If the command
    fails, run it again.
    """
    settings = Settings()
    home = Home.of(settings)
    try:
        home.prepare()
        with home.locked():
            stop_pods(home, settings.grace_seconds)
            _replace_files(home, settings)
        with up(settings, {}) as started:
            _replace_records(started.settings)
    except StackError as error:
        fail(str(error), ExitCode.FAILED)
    console.print(f"All secrets of EcoLink in {home.root} are new. {NOT_REPLACED}")


def _replace_files(home: Home, settings: Settings) -> None:
    passwords = Passwords()
    if settings.nats_url is None:
        NatsServer(home, 0, passwords).keep_streams()
    if settings.database_url is None and home.postgres.exists():
        PostgresServer(home, 0, passwords).set_owner_password(passwords.postgres_owner)
    artifacts, aside = Artifacts(settings.artifacts), f"seals-before-replacement/{uuid4()}"
    for ref in artifacts.list(SEALS):
        artifacts.copy(ref, f"{aside}/{ref}")
        artifacts.delete(ref)
    for path in (settings.seal_key_file, LastHead.beside(settings.seal_key_file).path):
        path.unlink(missing_ok=True)
    write_private(home.secrets, passwords.model_dump_json(indent=1))


def _replace_records(settings: Settings) -> None:
    with psycopg.connect(settings.owner_database_url or settings.database_url or "") as connection:
        for statement in RECORDS:
            connection.execute(statement)
    demo = settings.home / DEMO_KEY
    if demo.exists():
        account, old = demo_account(settings), api_key_id(secret_sha256(demo.read_text().strip()))
        with acting_for_the_demo(settings) as ecolink:
            ecolink.revoke_key(account.account_id, old)
        demo_account(settings)  # makes a new key
