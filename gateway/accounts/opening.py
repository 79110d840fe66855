"""Opening of an account under a name, which the command line and the gateway share."""

from __future__ import annotations

from uuid import UUID, uuid4
from zoneinfo import available_timezones

from domain.access.role import Role, require_account_role
from domain.billing.account import Account
from domain.core.errors import Invalid
from domain.use_cases.accounts import EcoLink
from infrastructure.accounts.profiles import add_account_name
from infrastructure.postgres.store import Connection

MAX_NAME = 100


def open_named(
    connection: Connection, ecolink: EcoLink, name: str, role: Role, time_zone: str
) -> Account:
    """Open an account. Call this inside `because`.

    Raise Invalid for an unknown time zone, the role `member`, a name that is taken, empty or too
    long, and a name that looks like the ID of an account. Then no name is stored.
    """
    require_account_role(role)
    if time_zone not in available_timezones():
        raise Invalid(
            f"Unknown time zone {time_zone!r}. Enter a name such as Europe/Berlin.",
            field="time_zone",
        )
    if not 0 < len(name) <= MAX_NAME or name != name.strip():
        raise Invalid(
            f"The name {name!r} must have 1 to {MAX_NAME} characters, and no space at either end.",
            field="name",
        )
    if _is_id(name):
        raise Invalid(f"{name!r} is an ID. Choose another name.", field="name")
    # The name is stored first. After a crash between the two steps, a retry opens the account.
    account_id = add_account_name(connection, uuid4(), name)
    if ecolink.log.find(Account, account_id) is not None:
        raise Invalid(f"An account named {name} already exists. Choose another name.", field="name")
    return ecolink.open_account(account_id, role, time_zone)


def _is_id(name: str) -> bool:
    try:
        UUID(name)
    except ValueError:
        return False
    return True
