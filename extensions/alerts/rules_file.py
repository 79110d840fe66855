"""Alert rules and receivers from TOML files: those that EcoLink ships, and the operator's."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from domain.core.value import Value
from extensions.alerts.domain.conditions import CONDITIONS
from extensions.alerts.domain.durations import parse_duration
from extensions.alerts.domain.parameters import Duration
from extensions.alerts.domain.rule import Rule, Severity
from extensions.alerts.receivers import Receiver, ReceiverInvalid, read_receiver

V = TypeVar("V", bound=BaseModel)

SHIPPED = "rules.toml"
NAME = re.compile(r"[A-Za-z0-9_-]+")
NEVER = "never"
TABLES = ("receivers", "routes", "rules")


def _repeat(text: object) -> object:
    return None if text == NEVER else parse_duration(text)


class RuleTable(Value):
    """The fields of a rule in a file."""

    condition: str = Field(description="Name of a condition, see below.")
    severity: Severity = Field(description="`info`, `warning` or `critical`.")
    parameters: dict[str, Any] = Field(
        default={}, description="Parameters of the condition, as a table."
    )
    group_by: tuple[str, ...] | None = Field(
        default=None,
        description="Labels with one alert for each combination. `[]` makes one alert. The default "
        "is the condition's first label.",
    )
    hold: Duration = Field(
        default=parse_duration("0s"),
        alias="for",
        description="Time for which the condition must hold before the alert fires.",
    )
    repeat: Annotated[timedelta | None, BeforeValidator(_repeat)] = Field(
        default=None, description='Time after which a firing alert is sent again, or "never".'
    )
    resolve_for: Duration = Field(
        default=parse_duration("1min"),
        description="Time for which a checked condition must not hold before the alert resolves.",
    )
    resolve_after: Duration = Field(
        default=parse_duration("1h"),
        description="Time after which an alert about a single event resolves.",
    )
    route: tuple[str, ...] | None = Field(
        default=None,
        description="Names of receivers. The default is the route of the severity, or all.",
    )
    enabled: bool = Field(default=True, description="`false` turns the rule off.")


FIELDS = tuple(declared.alias or name for name, declared in RuleTable.model_fields.items())


@dataclass(frozen=True)
class Rules:
    """The enabled rules and the receivers, by name. A string of it contains no URL."""

    rules: Mapping[str, Rule]
    receivers: Mapping[str, Receiver] = field(default_factory=dict)


class RulesInvalid(Exception):
    """A file of alert rules is invalid. Each problem names the file, the field and the fix."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def load_rules(file: Path | None) -> Rules:
    """Return the shipped rules with the changes of an operator's file. Raise RulesInvalid."""
    shipped = tomllib.loads(files("extensions.alerts").joinpath(SHIPPED).read_text())
    if file is None:
        return _Reader(SHIPPED).read(shipped["rules"], {})
    return _Reader(str(file)).read(shipped["rules"], _parsed(file))


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise RulesInvalid([f"{file}: The file is not valid TOML. {error}."]) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "It is not UTF-8"
        raise RulesInvalid(
            [f"{file}: Cannot read the file. {reason}. Correct ECOLINK_ALERTS_FILE."]
        ) from None


class _Reader:
    """Reads one file, and collects all its problems."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._problems: list[str] = []

    def read(self, shipped: dict[str, Any], own: dict[str, Any]) -> Rules:
        for name in own:
            if name not in TABLES:
                self._add(name, f"Unknown table. {_choices(name, TABLES)}")
        receivers = self._receivers(self._table(own, "receivers"))
        routes = self._routes(self._table(own, "routes"), receivers)
        rules: dict[str, Rule] = {}
        tables = self._table(own, "rules")
        for name in [*shipped, *(each for each in tables if each not in shipped)]:
            path = f"rules.{name}"
            changes = tables.get(name, {})
            if not NAME.fullmatch(name):
                self._add(path, "Use only letters, digits, - and _ in the name of a rule.")
            if not isinstance(changes, dict):
                self._add(path, f"{_quoted(changes)} is not a table. Write [{path}].")
                continue
            rule = self._rule(name, _merged(shipped.get(name, {}), changes), receivers, routes)
            if rule is not None:
                rules[name] = rule
        if self._problems:
            raise RulesInvalid(self._problems)
        return Rules(rules, receivers)

    def _table(self, own: dict[str, Any], name: str) -> dict[str, Any]:
        table = own.get(name, {})
        if isinstance(table, dict):
            return table
        self._add(name, f"This is not a table. Write [{name}].")
        return {}

    def _receivers(self, table: dict[str, Any]) -> dict[str, Receiver]:
        """Return the receivers. Problems never quote a value, because a URL contains secrets."""
        found: dict[str, Receiver] = {}
        for name, value in table.items():
            try:
                found[name] = read_receiver(name, value)
            except ReceiverInvalid as error:
                self._add(f"receivers.{name}", str(error))
        return found

    def _routes(
        self, table: dict[str, Any], receivers: Mapping[str, Receiver]
    ) -> dict[Severity, tuple[str, ...]]:
        found = dict.fromkeys(Severity, tuple(receivers))
        for name, value in table.items():
            path = f"routes.{name}"
            if name not in list(Severity):
                self._add(path, f"Unknown severity. {_choices(name, list(Severity))}")
            elif not isinstance(value, list):
                self._add(
                    path, f"{_quoted(value)} is not a list of receivers. Write a list of names."
                )
            else:
                self._check_receivers(path, value, receivers)
                found[Severity(name)] = tuple(map(str, value))
        return found

    def _rule(
        self,
        name: str,
        merged: dict[str, Any],
        receivers: Mapping[str, Receiver],
        routes: Mapping[Severity, tuple[str, ...]],
    ) -> Rule | None:
        """Return a rule, or None if it is turned off or invalid."""
        path, before = f"rules.{name}", len(self._problems)
        table = self._validated(RuleTable, path, merged, FIELDS)
        if table is None:
            return None
        kind = CONDITIONS.get(table.condition)
        if kind is None:
            choices = _choices(table.condition, CONDITIONS)
            self._add(
                f"{path}.condition", f"Unknown condition {_quoted(table.condition)}. {choices}"
            )
            return None
        fields = tuple(kind.parameters.model_fields)
        parameters = self._validated(
            kind.parameters, f"{path}.parameters", table.parameters, fields
        )
        group_by = kind.labels[:1] if table.group_by is None else table.group_by
        for label in group_by:
            if label not in kind.labels:
                choices = _choices(label, kind.labels)
                self._add(f"{path}.group_by", f"Unknown label {_quoted(label)}. {choices}")
        if table.route is not None:
            self._check_receivers(f"{path}.route", table.route, receivers)
        if parameters is None or len(self._problems) > before or not table.enabled:
            return None
        return Rule(
            name=name,
            condition=kind.name,
            parameters=parameters,
            severity=table.severity,
            group_by=group_by,
            hold=table.hold,
            repeat=table.repeat,
            resolve_for=table.resolve_for,
            resolve_after=table.resolve_after,
            receivers=routes[table.severity] if table.route is None else table.route,
        )

    def _check_receivers(
        self, path: str, names: Iterable[object], receivers: Mapping[str, Receiver]
    ) -> None:
        for name in names:
            if name not in receivers:
                known = _choices(str(name), receivers) if receivers else "Add it to [receivers]."
                self._add(path, f"Unknown receiver {_quoted(name)}. {known}")

    def _validated(
        self, kind: type[V], path: str, values: dict[str, Any], names: Sequence[str]
    ) -> V | None:
        """Return the values as a model. Add a problem for each invalid field."""
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            for each in error.errors():
                place = ".".join([path, *map(str, each["loc"])])
                self._add(place, _problem(each["type"], str(each["loc"][-1]), names, dict(each)))
            return None

    def _add(self, path: str, problem: str) -> None:
        self._problems.append(f"{self._file}: {path}: {problem}")


def _merged(shipped: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return a shipped rule with changed fields. Parameters are changed one by one."""
    merged = shipped | own
    same = own.get("condition", shipped.get("condition")) == shipped.get("condition")
    parameters = own.get("parameters", {})
    if same and isinstance(parameters, dict):
        merged["parameters"] = shipped.get("parameters", {}) | parameters
    return merged


def _problem(kind: str, name: str, names: Sequence[str], error: Mapping[str, Any]) -> str:
    """Return a sentence with the value and the fix for an error of pydantic."""
    value = _quoted(error["input"])
    match kind:
        case "extra_forbidden":
            return f"Unknown field. {_choices(name, names)}"
        case "missing":
            return "This field is missing. Add it."
        case "value_error":
            return f"{value}: {error['ctx']['error']}"
        case "tuple_type":
            return f"{value}: This is not a list. Write values in brackets."
        case _:
            return f"{value}: {error['msg']}."


def _quoted(value: object) -> str:
    """Return a value for a message. A URL may contain secrets, and is not shown."""
    text = repr(value)
    return "(a URL)" if "://" in text else text


def _choices(name: str, names: Iterable[str]) -> str:
    """Return a sentence with the possible names, and the one that was probably meant."""
    known = list(names)
    if not known:
        return "Remove it."
    close = get_close_matches(name, known, 1)
    meant = f" Did you mean {str(close[0])!r}?" if close else ""
    return f"Use one of {', '.join(known)}.{meant}"
