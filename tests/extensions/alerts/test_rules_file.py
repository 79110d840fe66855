"""Files of alert rules: what they change, and what is said about invalid ones."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from extensions.alerts.checks import CHECKS
from extensions.alerts.domain.conditions import CONDITIONS
from extensions.alerts.domain.parameters import DiskLimit, DiskParameters
from extensions.alerts.domain.rule import Severity
from extensions.alerts.rules_file import Rules, RulesInvalid, load_rules

SECRET = "T123/B456/secret-token"


def load(folder: Path, text: str) -> Rules:
    file = folder / "alerts.toml"
    file.write_text(text)
    return load_rules(file)


def problems(folder: Path, text: str) -> list[str]:
    """The problems of a file, without its name, which begins each of them."""
    with pytest.raises(RulesInvalid) as raised:
        load(folder, text)
    start = f"{folder / 'alerts.toml'}: "
    assert all(each.startswith(start) for each in raised.value.problems)
    return [each.removeprefix(start) for each in raised.value.problems]


def test_the_shipped_rules_use_every_condition_except_certificates() -> None:
    shipped = load_rules(None)
    conditions = {rule.condition for rule in shipped.rules.values()}
    assert conditions == CONDITIONS.keys() - {"certificate_expiring"}
    assert shipped.receivers == {}
    assert all(rule.receivers == () for rule in shipped.rules.values())


def test_every_condition_is_an_event_or_has_a_check() -> None:
    assert CHECKS.keys() == {each.name for each in CONDITIONS.values() if not each.by_event}


def test_a_file_changes_fields_of_shipped_rules_and_keeps_the_others(tmp_path: Path) -> None:
    rules = load(
        tmp_path,
        """
        [rules.disk-low]
        for = "5 min"
        repeat = "4h"
        parameters = { free_gib = 20 }
        [rules.job-failed]
        enabled = false
        """,
    ).rules
    shipped = load_rules(None).rules
    disk = rules["disk-low"]
    assert (disk.hold, disk.repeat) == (timedelta(minutes=5), timedelta(hours=4))
    assert disk.parameters == DiskParameters(limit=DiskLimit.LOW, free_gib=20)
    assert disk.severity is shipped["disk-low"].severity
    assert rules.keys() == shipped.keys() - {"job-failed"}
    assert rules["parked-event"] == shipped["parked-event"]


def test_a_file_adds_rules(tmp_path: Path) -> None:
    rules = load(
        tmp_path,
        """
        [rules.proxy-certificate]
        condition = "certificate_expiring"
        severity = "warning"
        parameters = { file = "/etc/tls/cert.pem", within = "30d" }
        """,
    ).rules
    added = rules["proxy-certificate"]
    assert (added.severity, added.group_by) == (Severity.WARNING, ("file",))


def test_a_rule_notifies_its_route_or_that_of_its_severity_or_all(tmp_path: Path) -> None:
    rules = load(
        tmp_path,
        """
        [receivers]
        ops = "json://127.0.0.1"
        oncall = "json://127.0.0.2"
        [routes]
        info = []
        critical = ["oncall", "ops"]
        [rules.job-failed]
        route = ["oncall"]
        """,
    ).rules
    found = {name: rules[name].receivers for name in ("job-failed", "balance-low", "disk-low")}
    assert found == {"job-failed": ("oncall",), "balance-low": (), "disk-low": ("ops", "oncall")}
    assert rules["disk-critical"].receivers == ("oncall", "ops")


def test_the_url_of_a_receiver_can_be_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"slack://{SECRET}\n")
    rules = load(tmp_path, f'[receivers]\nops = {{ url_file = "{tmp_path / "url"}" }}')
    assert rules.receivers["ops"].url == f"slack://{SECRET}"
    assert rules.receivers["ops"].scheme == "slack"


def test_the_text_of_rules_contains_no_url(tmp_path: Path) -> None:
    rules = load(tmp_path, f'[receivers]\nops = "slack://{SECRET}"')
    assert "secret" not in f"{rules} {rules!r} {rules.receivers['ops']}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[reciever]",
            "reciever: Unknown table. Use one of receivers, routes, rules. "
            "Did you mean 'receivers'?",
        ),
        ("receivers = 5", "receivers: This is not a table. Write [receivers]."),
        ("[rules]\nx = 5", "rules.x: 5 is not a table. Write [rules.x]."),
        (
            '[rules.disk-low]\nseverity = "fatal"',
            "rules.disk-low.severity: 'fatal': Input should be 'info', 'warning' or 'critical'.",
        ),
        (
            '[rules.disk-low]\nfor = "5 minuts"',
            "rules.disk-low.for: '5 minuts': This is not a duration. Write a number with the unit "
            's, min, h or d, such as "5min".',
        ),
        (
            '[rules.disk-low]\nroute = "ops"',
            "rules.disk-low.route: 'ops': This is not a list. Write values in brackets.",
        ),
        (
            '[rules.disk-low]\nroute = ["ops"]',
            "rules.disk-low.route: Unknown receiver 'ops'. Add it to [receivers].",
        ),
        (
            '[rules.disk-low]\ngroup_by = ["disk"]',
            "rules.disk-low.group_by: Unknown label 'disk'. Use one of path.",
        ),
        (
            "[rules.disk-low]\nparameters = { free_gib = 0 }",
            "rules.disk-low.parameters.free_gib: 0: Input should be greater than 0.",
        ),
        (
            "[rules.disk-low]\nparameters = { free = 1 }",
            "rules.disk-low.parameters.free: Unknown field. Use one of limit, free_gib, paths. "
            "Did you mean 'free_gib'?",
        ),
        ('[rules.x]\nseverity = "info"', "rules.x.condition: This field is missing. Add it."),
        (
            '[routes]\ncritical = "ops"',
            "routes.critical: 'ops' is not a list of receivers. Write a list of names.",
        ),
    ],
)
def test_a_problem_names_the_field_the_value_and_the_fix(
    tmp_path: Path, text: str, problem: str
) -> None:
    assert problems(tmp_path, text) == [problem]


def test_all_problems_of_a_file_are_reported(tmp_path: Path) -> None:
    text = '[rules.a]\nseverity = "info"\n[rules.b]\ncondition = "x"\nseverity = "info"'
    assert [each.partition(":")[0] for each in problems(tmp_path, text)] == [
        "rules.a.condition",
        "rules.b.condition",
    ]


@pytest.mark.parametrize(
    "text",
    [
        f'[receivers]\nops = "{SECRET}"',
        f'[receivers]\nops = {{ url = "slack://{SECRET}" }}',
        f'[receivers]\nops = ["slack://{SECRET}"]',
        f'receivers = "slack://{SECRET}"',
        f'[rules.disk-low]\nroute = ["slack://{SECRET}"]',
        f'[rules.disk-low]\nroute = "slack://{SECRET}"',
        f'[routes]\ncritical = "slack://{SECRET}"',
        f'[rules.disk-low]\nreceivers = "slack://{SECRET}"',
        f'[rules]\nops = "slack://{SECRET}"',
    ],
)
def test_a_problem_never_shows_a_secret(tmp_path: Path, text: str) -> None:
    found = problems(tmp_path, text)
    assert found
    assert "secret" not in "".join(found)


def test_a_missing_file_and_broken_toml_are_reported(tmp_path: Path) -> None:
    with pytest.raises(RulesInvalid, match="No such file"):
        load_rules(tmp_path / "none.toml")
    (found,) = problems(tmp_path, f'[receivers]\nops = "slack://{SECRET}')
    assert "not valid TOML" in found
    assert "secret" not in found
