"""`ecolink keys`: the API keys of your account."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from domain.access.rights import MAX_DAYS
from domain.access.role import Role
from domain.access.scope import Scope
from gateway.cli.client import Client
from gateway.cli.tables import fields, listing
from gateway.cli.terminal import CommandGroup, note, show
from gateway.keys.schemas import KeyForm, KeyResponse, NewKey
from gateway.schemas import Listed

keys = CommandGroup(no_args_is_help=True, help="Create, list and revoke API keys.")

UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def expiry(text: str) -> datetime:
    """Return the time after a lifetime such as `30d`. Raise BadParameter."""
    given = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text.strip())
    lifetime = timedelta(**{UNITS[given[2]]: int(given[1])}) if given else None
    if lifetime is None or lifetime > timedelta(days=MAX_DAYS):
        raise typer.BadParameter(
            f"{text!r} is no lifetime of at most {MAX_DAYS} days. Enter one such as 12h, 30d or 8w."
        )
    return datetime.now(UTC) + lifetime


RoleOption = Annotated[
    Role | None,
    typer.Option(
        help="Role of the key's holder. A member can neither pay nor manage keys.",
        show_default=False,
    ),
]
ScopeOption = Annotated[
    list[Scope] | None,
    typer.Option(help="Permission of the key. Repeat for several.  \\[default: all of its role]"),
]
ExpiresOption = Annotated[
    datetime | None,
    typer.Option(
        parser=expiry,
        metavar="LIFETIME",
        help="Lifetime of the key, such as 12h, 30d or 8w.  \\[default: until revoked]",
    ),
]


@keys.command()
def create(
    client: Client,
    name: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    role: RoleOption = None,
    scope: ScopeOption = None,
    expires: ExpiresOption = None,
) -> None:
    """Create an API key and print its secret, which is shown only once."""
    form = KeyForm(name=name, role=role, scopes=scope or None, expires_at=expires)
    key = client.send(NewKey, "/keys", form.model_dump(mode="json", exclude_none=True))
    note(
        f"Key {key.model.id}, with the scopes {', '.join(key.model.scopes)}. "
        "Save the secret: EcoLink does not show it again."
    )
    show(key, lambda new: Text(new.secret))  # only the secret, so it can be piped


@keys.command("list")
def list_keys(client: Client) -> None:
    """List your API keys with their scopes and their last use."""
    show(client.read(Listed[KeyResponse], "/keys"), _keys)


def _keys(answer: Listed[KeyResponse]) -> RenderableType:
    return listing(
        (
            {
                "id": key.id,
                "name": key.name,
                "ends in": key.hint,
                "role": key.role,
                "scopes": " ".join(key.scopes),
                "issued at": key.issued_at,
                "created by": "operator" if key.created_by_operator else "account",
                "last used at": key.last_used_at,
                "expires at": key.expires_at,
                "revoked at": key.revoked_at,
                "note": _note(key),
            }
            for key in answer.data
        ),
        empty="You have no API keys.",
    )


def _note(key: KeyResponse) -> str | None:
    if key.current:
        return "used by these commands"
    return "expired" if key.expired else None


@keys.command()
def revoke(
    client: Client, key: Annotated[str, typer.Argument(help="ID of the key.", show_default=False)]
) -> None:
    """Revoke an API key immediately."""
    revoked = client.send(KeyResponse, f"/keys/{key}/revoke", {})
    if revoked.model.current:
        note("These commands use the revoked key. Save another key with `ecolink login`.")
    show(revoked, fields)
