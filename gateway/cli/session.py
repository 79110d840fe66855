"""`ecolink login`, `logout` and `whoami`: which gateway the commands call, and as whom."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gateway.cli import tables
from gateway.cli.client import Client, Endpoint
from gateway.cli.login import login_file, remove_login, write_login
from gateway.cli.terminal import AsJson, Finder, client_of, note, show, show_line, told_errors

session = typer.Typer()


@session.command()
def login(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Argument(help="Such as https://ecolink.example.org.  \\[default: on this machine]"),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="API key; without it, it is asked for, or read from standard input."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep the address of an EcoLink and your API key for it, once the key is seen to work.

    ECOLINK_GATEWAY_URL and ECOLINK_API_KEY, and the options --url and --key, go before it.
    """
    finder: Finder = ctx.obj
    given_url, given_key = finder.given()
    address = _address(url or given_url)
    endpoint = Endpoint(address, key or given_key or _typed_key(address))
    with told_errors(ctx):
        with Client(endpoint) as client:
            account = client.get("/account")
        path = write_login(endpoint)
    note(f"Signed in to {endpoint.url}; the key is kept in {path}.")
    show({"url": endpoint.url, "account": account}, as_json, tables.session)


@session.command()
def logout(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Forget the kept address and key; the key itself stays valid until it is revoked."""
    with told_errors(ctx):
        removed = remove_login()
    note("Signed out." if removed else f"There was no login in {login_file()}.")
    if as_json:
        show_line({"signed_out": removed})


@session.command()
def whoami(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Which EcoLink the commands call, and as which account."""
    finder: Finder = ctx.obj
    with client_of(ctx) as client:
        answer = {"url": finder.endpoint().url, "account": client.get("/account")}
        show(answer, as_json, tables.session)


def _address(given: str | None) -> str:
    """The URL as it is kept; raises BadParameter for one that cannot be."""
    if given is None and sys.stdin.isatty():
        given = str(typer.prompt("Address of EcoLink", err=True)).strip()
    if given is None:
        raise typer.BadParameter("give the address, such as https://ecolink.example.org")
    if not given.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{given} has to begin with https:// or http://")
    return given.rstrip("/")


def _typed_key(address: str) -> str:
    """A key that is typed unseen, or piped in; raises BadParameter without one."""
    if sys.stdin.isatty():
        key = str(typer.prompt(f"API key for {address}", hide_input=True, err=True))
    else:
        key = sys.stdin.readline()
    if not key.strip():
        raise typer.BadParameter("give an API key with --key, or on standard input")
    return key.strip()
