"""Checks that fail, so that their rules cannot fire."""

from __future__ import annotations

from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.cause import Finding
from extensions.alerts.domain.parameters import Parameters


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
