"""The alerts process in steps, on a real database, with a clock that a test sets."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta

from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from extensions.alerts import tables
from extensions.alerts.delivery import Delivery
from extensions.alerts.effect import AlertEffect
from extensions.alerts.rules_file import load_rules
from extensions.alerts.tables import ListedAlert
from extensions.alerts.watch import RulesInForce, Watch
from infrastructure.bus.consumer import OrderedConsumer, UnknownPosition
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from tests.builders.commands import FixedClock


class AlertsProcess:
    """A started process. To restart it, make another one with the same database."""

    def __init__(
        self, settings: Settings, log: EventLog, pool: ConnectionPool[Connection], rules: str
    ) -> None:
        self.file = settings.home / "alerts.toml"
        self.write(rules)
        self._parts = settings, log, pool
        self.clock = FixedClock()
        self.restart()

    def write(self, rules: str) -> None:
        """Replace the operator's file. Its time changes even on a coarse clock."""
        before = self.file.stat().st_mtime_ns if self.file.exists() else 0
        self.file.write_text(rules)
        os.utime(self.file, ns=(before + 10**9, before + 10**9))

    def restart(self) -> None:
        """Start again, with nothing in memory."""
        settings, log, pool = self._parts
        self.in_force = RulesInForce(self.file)
        effect = AlertEffect(
            lambda: tuple(self.in_force.rules.rules.values()), self.clock, pool.connection
        )
        self._consumer = OrderedConsumer(effect, log)
        self._watch = Watch(settings, self.in_force, self.clock, pool.connection)
        self.delivery = Delivery(lambda: self.in_force.rules, self.clock, pool.connection)

    async def step(self, *, after_seconds: float = 0) -> None:
        """Consume all events, check, evaluate and deliver, after a time."""
        self.clock.time += timedelta(seconds=after_seconds)
        with suppress(UnknownPosition):  # retried forever, while the checks go on
            self._consumer.catch_up()
        self._watch.step()
        await self.deliver()

    async def deliver(self) -> None:
        """Deliver the notices that are due, until none is."""
        await self.delivery.start_due()
        await self.delivery.finish()
        await self.delivery.start_due()
        await self.delivery.finish()

    def firing(self) -> list[ListedAlert]:
        """Return the open alerts."""
        with self._parts[2].connection() as connection:
            return tables.open_alerts(connection, self.clock.now())

    def resolved(self) -> list[ListedAlert]:
        """Return the resolved alerts."""
        with self._parts[2].connection() as connection:
            return tables.resolved_alerts(connection, self.clock.now(), 100)

    def names(self) -> list[str]:
        """Return the rules of the open alerts."""
        return sorted(each.alert.rule for each in self.firing())


def only(*rules: str, receivers: str = "") -> str:
    """Return a file in which only these shipped rules are on, and fire immediately."""
    lines = [f"[receivers]\n{receivers}"]
    for name in load_rules(None).rules:
        lines.append(f"[rules.{name}]")
        lines.append('for = "0s"' if name in rules else "enabled = false")
    return "\n".join(lines) + "\n"
