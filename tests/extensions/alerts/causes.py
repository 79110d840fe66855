"""Alert rules for tests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from extensions.alerts.domain.cause import Cause, Finding, cause_of
from extensions.alerts.domain.conditions import CONDITIONS
from extensions.alerts.domain.rule import Rule, Severity
from tests.builders.commands import NOW

OPS = ("ops",)


def rule(condition: str = "disk_low", **changes: Any) -> Rule:
    """Return a rule of a condition, named like it, that fires immediately and notifies `ops`."""
    kind = CONDITIONS[condition]
    fields: dict[str, Any] = {
        "name": condition,
        "condition": condition,
        "parameters": kind.parameters.model_construct(),
        "severity": Severity.WARNING,
        "group_by": kind.labels[:1],
        "hold": timedelta(0),
        "repeat": None,
        "resolve_for": timedelta(0),
        "resolve_after": timedelta(hours=1),
        "receivers": OPS,
    }
    return Rule(**fields | changes)


def full_disk(of: Rule, path: str = "/data", after_seconds: float = 0) -> Cause:
    """Return the cause that a disk is full since a number of seconds after noon."""
    finding = Finding({"path": path}, f"{path} is full.")
    return cause_of(of, finding, NOW + timedelta(seconds=after_seconds))
