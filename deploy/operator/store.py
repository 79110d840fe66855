"""The event store on this host, as used by operator commands."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

from deploy.local.errors import StackError
from deploy.local.stack import stack
from domain.catalog.catalog import Catalog
from domain.core.aggregate import Cause, because
from domain.core.errors import DomainError, NotFound
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID
from domain.use_cases.accounts import EcoLink
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import fail
from infrastructure.accounts.profiles import account_named
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.postgres.store import Connection, connect, open_log
from infrastructure.process.clock import clock_of
from infrastructure.settings import Settings
from projections.projection import Projection, ProjectionEffect


@dataclass(frozen=True)
class Store:
    """An open store, whose use cases act for the operator."""

    settings: Settings
    log: EventLog
    connection: Connection

    @property
    def ecolink(self) -> EcoLink:
        return EcoLink(self.log)

    @property
    def catalog(self) -> Catalog:
        """The current catalog."""
        return self.log.load(Catalog, CATALOG_ID)

    def account(self, name: str) -> UUID:
        """Return the ID of the account with this name. Raise NotFound if there is none."""
        account_id = account_named(self.connection, name)
        if account_id is None:
            raise NotFound(f"Unknown account {name!r}. See `ecolink accounts list`.")
        return account_id

    def fold(self, projection: Projection) -> None:
        """Bring a projection up to date. This is safe while the projector runs."""
        effect = ProjectionEffect(projection, lambda: connect(self.settings))
        OrderedConsumer(effect, self.log).catch_up()


@contextmanager
def open_store() -> Generator[Store]:
    """Open the store of the running stack, or start its servers temporarily.

    All events inside the block have the same cause. On a StackError or DomainError, print the
    message and exit with status 1.
    """
    try:
        with stack(Settings(), {}) as settings, open_log(settings) as log:
            cause = Cause("operator:host", str(uuid4()), clock_of(settings).now())
            with connect(settings) as connection, because(cause):
                yield Store(settings, log, connection)
    except (StackError, DomainError) as error:
        fail(str(error), ExitCode.FAILED)
