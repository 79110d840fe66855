"""`ecolink login`, `logout` and `whoami`: the gateway and account that commands use."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gateway.billing.schemas import AccountResponse
from gateway.cli.client import Client, Endpoint, Reply, each_of
from gateway.cli.login import login_file, remove_login, write_login
from gateway.cli.tables import pairs
from gateway.cli.terminal import CommandGroup, Finder, for_programs, note, show, show_line
from gateway.keys.schemas import KeyResponse
from gateway.schemas import Listed

session = CommandGroup()


@session.command()
def login(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Argument(
            help="URL of EcoLink, such as https://ecolink.example.org.  \\[default: this machine]"
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="API key.  \\[default: a prompt, or standard input]")
    ] = None,
) -> None:
    """Verify your API key, then save it with the URL of the EcoLink gateway.

    ECOLINK_GATEWAY_URL and ECOLINK_API_KEY, and the options --url and --key, override the login.
    """
    finder: Finder = ctx.obj
    given_url, given_key = finder.given()
    address = _address(url or given_url)
    endpoint = Endpoint(address, key or given_key or _typed_key(address))
    with Client(endpoint) as client:
        account, used = client.read(AccountResponse, "/account"), _key_of(client)
    path = write_login(endpoint)
    note(f"Signed in to {endpoint.url}. The key is in {path}.")
    _show(endpoint.url, account, used)


@session.command()
def logout() -> None:
    """Delete the saved URL and key. The key stays valid until you revoke it."""
    removed = remove_login()
    note("Signed out." if removed else f"There is no login in {login_file()}.")
    if for_programs.get():
        show_line({"signed_out": removed})


@session.command()
def whoami(client: Client) -> None:
    """Show the gateway and the account that these commands use."""
    _show(client.url, client.read(AccountResponse, "/account"), _key_of(client))


def _key_of(client: Client) -> Reply[KeyResponse] | None:
    """Return the API key of these commands. An auditor who reads another account gets None."""
    keys = each_of(client.read(Listed[KeyResponse], "/keys"))
    return next((key for key in keys if key.model.current), None)


def _show(url: str, account: Reply[AccountResponse], key: Reply[KeyResponse] | None) -> None:
    whose = account.model
    shown = {
        "gateway": url,
        "account": whose.name,
        "id": whose.id,
        "role": key.model.role if key else whose.role,
        "scopes": ", ".join(key.model.scopes) if key else None,
        "expires at": key.model.expires_at if key else None,
        "balance": whose.balance,
    }
    document = {"url": url, "account": account.document, "key": key and key.document}
    show(Reply(document, shown), pairs)


def _address(given: str | None) -> str:
    if given is None and sys.stdin.isatty():
        given = str(typer.prompt("URL of EcoLink", err=True)).strip()
    if given is None:
        raise typer.BadParameter(
            "The URL is missing. Pass it, such as https://ecolink.example.org."
        )
    if not given.startswith(("http://", "https://")):
        raise typer.BadParameter(
            f"{given!r} does not begin with https:// or http://. Correct the URL."
        )
    return given.rstrip("/")


def _typed_key(address: str) -> str:
    if sys.stdin.isatty():
        key = str(typer.prompt(f"API key for {address}", hide_input=True, err=True))
    else:
        key = sys.stdin.readline()
    if not key.strip():
        raise typer.BadParameter("The API key is missing. Pass it with --key or on standard input.")
    return key.strip()
