"""Causes: subjects for which the condition of a rule holds, such as one failed job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from extensions.alerts.domain.rule import Rule

ALL = "all"
"""Group of a rule that has only one alert."""


@dataclass(frozen=True)
class Finding:
    """A subject for which a condition holds. `text` is one sentence for the operator."""

    labels: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class Cause:
    """A finding of a rule, since a time. It ends at `until`, or when it is no longer found."""

    rule: str
    subject: str
    group: str
    since: datetime
    text: str
    until: datetime | None = None


def subject_of(rule: Rule, labels: Mapping[str, str]) -> str:
    """Return the subject of a rule's condition."""
    return labels[rule.kind.labels[0]]


def group_of(rule: Rule, labels: Mapping[str, str]) -> str:
    """Return the key of an alert, such as `region=eu gpu_type=h100`."""
    return " ".join(f"{name}={labels[name]}" for name in rule.group_by) or ALL


def cause_of(rule: Rule, finding: Finding, since: datetime, until: datetime | None = None) -> Cause:
    """Return the cause of a finding."""
    subject, group = subject_of(rule, finding.labels), group_of(rule, finding.labels)
    return Cause(rule.name, subject, group, since, finding.text, until)
