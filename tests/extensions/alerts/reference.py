"""The alert rules: fields, conditions with their parameters, and the shipped rules."""

from __future__ import annotations

import json
from datetime import timedelta
from enum import StrEnum
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from domain.core.durations import spoken
from extensions.alerts.domain.conditions import CONDITIONS, Condition
from extensions.alerts.domain.rule import Rule
from extensions.alerts.rules_file import NEVER, RuleTable, load_rules
from tests.docs import markdown
from tests.docs.markdown import code, text
from tests.docs.operator_pages import Host, page_at


def alert_rules() -> str:
    """Every field of a rule, every condition and every shipped rule."""
    return markdown.page(
        "Alert rules",
        "A rule in the file `ECOLINK_ALERTS_FILE` has these fields. "
        "[Alerts](../operate/alerts.md) explains how to write the file. A duration is a number "
        "with a unit, such as `30s`, `5min`, `2h` or `1d`.",
        markdown.section("Fields", _fields(RuleTable.model_fields)),
        markdown.section(
            "Conditions",
            "`group_by` can name the labels of a condition. The first label identifies the "
            "subject.",
            *(_condition(each) for each in CONDITIONS.values()),
        ),
        markdown.section(
            "Shipped rules",
            markdown.table(
                ("rule", "condition", "severity", "for", "one alert for each"),
                map(_rule, load_rules(None).rules.values()),
            ),
        ),
    )


def _fields(fields: dict[str, FieldInfo]) -> str:
    rows = [
        (code(field.alias or name), _default(name, field), text(field.description))
        for name, field in fields.items()
    ]
    return markdown.table(("field", "default", "meaning"), rows)


def _default(name: str, field: FieldInfo) -> str:
    value: Any = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return code(json.dumps(NEVER)) if name == "repeat" else "see meaning"
    return code(_toml(value))


def _toml(value: Any) -> str:
    match value:
        case timedelta():
            return json.dumps(spoken(value.total_seconds()))
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return "{}"
        case bool():
            return str(value).lower()
        case StrEnum():
            return json.dumps(str(value))
        case _:
            return str(value)


def _condition(condition: Condition) -> str:
    source = "An event" if condition.by_event else "A periodic check"
    end = " It holds for `resolve_after`." if condition.momentary else ""
    return markdown.section(
        code(condition.name),
        f"{condition.title}. {source} raises it.{end} "
        f"Labels: {', '.join(map(code, condition.labels))}.",
        _fields(condition.parameters.model_fields),
        level=3,
    )


def _rule(rule: Rule) -> tuple[str, ...]:
    groups = ", ".join(map(code, rule.group_by)) or "nothing: one alert in total"
    hold = spoken(rule.hold.total_seconds())
    return code(rule.name), code(rule.condition), rule.severity, hold, groups


PAGES = {"reference/alert-rules.md": alert_rules}
"""Generated pages."""

OPERATOR_COMMANDS = {
    "alerts list": page_at("/ops/alerts"),
    "alerts history": page_at("/ops/alerts"),
    "alerts silence": page_at("/ops/alerts", "/ops/alerts/silences"),
    "alerts unsilence": page_at("/ops/alerts", "/ops/alerts/silences/end"),
    "alerts test": Host("It needs the receivers with their passwords, which only the host has."),
    "alerts rules": Host("It reads the file of rules, which has the passwords of the receivers."),
}
"""Pages of the operator commands."""
