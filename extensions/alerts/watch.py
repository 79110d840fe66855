"""The periodic work of the alerts process: checks, evaluation, and reloading of the rules."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from extensions.alerts import tables
from extensions.alerts.checks import CHECK_FAILED, CHECKS, Check
from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.cause import Cause, cause_of
from extensions.alerts.domain.evaluation import Changes, NoticeKind, evaluate
from extensions.alerts.domain.rule import Rule
from extensions.alerts.effect import Connect, changing
from extensions.alerts.rules_file import RulesInvalid, load_rules
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.leadership import Leadership
from infrastructure.process.clock import Clock
from infrastructure.settings import Settings

LONGEST_REASON = 200
"""Characters of an error that an alert about a failed check shows."""

log = logging.getLogger("alerts")


class RulesInForce:
    """The last valid rules. An invalid change of the file is logged and has no effect."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._version = file, _version(file)
        self.rules = load_rules(file)

    def refresh(self) -> None:
        """Load the file again if it changed."""
        version = _version(self._file)
        if version == self._version:
            return
        self._version = version
        try:
            self.rules = load_rules(self._file)
        except RulesInvalid as error:
            log.error("The last valid rules stay in force. %s", error)
        else:
            log.info("loaded %d rules from %s", len(self.rules.rules), self._file)


def _version(file: Path | None) -> object:
    """Return a value that changes with the file."""
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Watch:
    """Runs the checks that are due, and decides which alerts fire, repeat and resolve.

    It writes to the database only if something changed.
    """

    def __init__(
        self,
        settings: Settings,
        in_force: RulesInForce,
        clock: Clock,
        connect: Connect,
        leadership: Leadership | None = None,
    ) -> None:
        self._settings, self._in_force, self._clock = settings, in_force, clock
        self._connect, self._leadership = connect, leadership
        self._artifacts = Artifacts(settings.artifacts)
        self._checks: dict[str, tuple[Rule, Check, datetime]] = {}
        self._failures: dict[str, str] = {}
        """Reasons of the checks that failed when they last ran, by rule."""

    def step(self) -> None:
        """Refresh the rules, run the checks that are due, and evaluate the alerts once."""
        self._in_force.refresh()
        rules, now = self._in_force.rules.rules, self._clock.now()
        checked = [rule for rule in rules.values() if not rule.kind.by_event]
        self._failures = {name: why for name, why in self._failures.items() if name in rules}
        # The check of failed checks comes last, so that it knows the results of the others.
        for rule in sorted(checked, key=lambda each: each.condition == CHECK_FAILED):
            self._check(rule, now)
        self._evaluate(rules, now)

    def _check(self, rule: Rule, now: datetime) -> None:
        """Run the check of a rule if it is due. If it fails, the causes stay as they are."""
        known = self._checks.get(rule.name)
        if known is not None and known[0] == rule:
            check, due = known[1:]
            if now < due:
                return
        else:
            check = CHECKS[rule.condition]()
        self._checks[rule.name] = rule, check, now + timedelta(seconds=check.seconds)
        try:
            with self._connect() as connection:
                around = Surroundings(
                    self._settings, connection, self._artifacts, now, dict(self._failures)
                )
                causes = [
                    cause_of(rule, finding, now) for finding in check.find(around, rule.parameters)
                ]
                if not tables.is_stored(connection, rule.name, causes):
                    with changing(connection, self._leadership):
                        tables.replace_causes(connection, rule.name, causes)
        except Exception as error:
            log.exception("the check of rule %s failed; its alerts stay as they are", rule.name)
            self._failures[rule.name] = _reason(error)
        else:
            self._failures.pop(rule.name, None)

    def _evaluate(self, rules: Mapping[str, Rule], now: datetime) -> None:
        with self._connect() as connection:
            situation = tables.situation(connection)
            changes = evaluate(rules, situation, now)
            if changes != Changes() or any(_ended(rules, each, now) for each in situation.causes):
                with changing(connection, self._leadership):
                    tables.save(connection, changes, now)
                    tables.forget_causes(connection, rules, now)
                    tables.forget_older(connection, now - tables.KEPT)
        for alert in changes.saved:
            if alert.fired_at == now:
                log.warning("%s %s fires: %s", alert.rule, alert.group, alert.text)
            elif alert.resolved_at == now:
                log.info("%s %s is resolved", alert.rule, alert.group)
        for notice in changes.notices:
            if notice.kind is NoticeKind.REPEATED:
                log.info("%s %s still fires", notice.alert.rule, notice.alert.group)


def _reason(error: Exception) -> str:
    """Return the type of an error and the first line of its message, without a final period."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:LONGEST_REASON].rstrip(".: ")


def _ended(rules: Mapping[str, Rule], cause: Cause, now: datetime) -> bool:
    return cause.rule not in rules or (cause.until is not None and cause.until <= now)
