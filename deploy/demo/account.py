"""The demo account, which is created once for each home, with credit and a stored API key."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

from deploy.endpoint import DEMO_KEY
from deploy.local.home import write_private
from domain.access.api_key import secret_sha256
from domain.access.role import Role
from domain.core.aggregate import Cause, because
from domain.core.identity import NAMESPACE, api_key_id, created_id
from domain.use_cases.accounts import EcoLink
from infrastructure.accounts.profiles import add_account_name
from infrastructure.accounts.sessions import add_sign_in_link
from infrastructure.payments.provider import PROVIDERS
from infrastructure.postgres.store import connect, open_log
from infrastructure.process.clock import clock_of
from infrastructure.settings import Settings

NAME = "demo"
CREDIT_MICROS = 25_000_000


@dataclass(frozen=True)
class DemoAccount:
    """An account with one of its API keys."""

    account_id: UUID
    key: str


def demo_account(settings: Settings) -> DemoAccount:
    """Return the demo account of a running stack. Create it on first use."""
    path = settings.home / DEMO_KEY
    with acting_for_the_demo(settings) as ecolink:
        with connect(settings) as connection:
            account_id = add_account_name(connection, created_id(NAMESPACE, "account", NAME), NAME)
        ecolink.open_account(account_id, Role.OWNER)
        ecolink.grant_credit(account_id, CREDIT_MICROS, "demo credit")
        key = path.read_text().strip() if path.exists() else None
        if key is None or ecolink.authenticate(key) is None:  # the demo's key never expires
            _, key = ecolink.issue_key(account_id)
            write_private(path, key + "\n")
    return DemoAccount(account_id, key)


def sign_in_link(settings: Settings, account: DemoAccount) -> str:
    """Return a single-use link that signs a browser in to the account."""
    with connect(settings) as connection:
        token = add_sign_in_link(connection, api_key_id(secret_sha256(account.key)))
    return f"{settings.public_url or settings.gateway_url}/sign-in/{token}"


def fresh_account(settings: Settings, name: str) -> DemoAccount:
    """Create an account without credit. Its name gets a unique suffix."""
    account_id = uuid4()
    with acting_for_the_demo(settings) as ecolink:
        with connect(settings) as connection:
            add_account_name(connection, account_id, f"{name}-{account_id.hex[:8]}")
        ecolink.open_account(account_id, Role.OWNER)
        _, key = ecolink.issue_key(account_id)
    return DemoAccount(account_id, key)


def top_up(settings: Settings, account_id: UUID, amount_micros: int, reference: str) -> None:
    """Confirm a payment, as an operator would."""
    receipt = PROVIDERS["manual"].receipt(f"{reference} {account_id}", amount_micros)
    with acting_for_the_demo(settings) as ecolink:
        ecolink.top_up(account_id, receipt)


@contextmanager
def acting_for_the_demo(settings: Settings) -> Generator[EcoLink]:
    """Yield the use cases on the store of a running stack, with the demo as the cause of events."""
    cause = Cause("service:demo", str(uuid4()), clock_of(settings).now())
    with open_log(settings) as log, because(cause):
        yield EcoLink(log)
