"""Checks that fail, so that their rules cannot fire."""

from __future__ import annotations

from domain.alerting.cause import Finding
from domain.alerting.parameters import Parameters
from services.alerts.checks.surroundings import Surroundings


def failing(around: Surroundings, _: Parameters) -> list[Finding]:
    """Return the rules whose last check failed, with the reason."""
    return [
        Finding(
            {"rule": name},
            f"The check of the rule {name} fails: {reason}. The rule cannot fire or resolve. "
            "See the log of alerts.",
        )
        for name, reason in sorted(around.failures.items())
    ]
