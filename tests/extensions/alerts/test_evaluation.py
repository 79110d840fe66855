"""Alerts fire once, resolve once, are grouped, repeat and are silenced."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from extensions.alerts.domain.cause import Cause
from extensions.alerts.domain.evaluation import (
    Alert,
    Changes,
    NoticeKind,
    Silence,
    Situation,
    evaluate,
)
from extensions.alerts.domain.rule import Rule
from tests.builders.commands import NOW
from tests.extensions.alerts.causes import full_disk, rule

FIRED, REPEATED, RESOLVED = NoticeKind.FIRED, NoticeKind.REPEATED, NoticeKind.RESOLVED


class Watch:
    """A database of alerts in memory. Times are seconds after noon."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = {each.name: each for each in rules}
        self.open: dict[tuple[str, str], Alert] = {}
        self.resolved: list[Alert] = []
        self.silences: list[Silence] = []
        self.sent: list[tuple[float, NoticeKind, str]] = []

    def at(self, seconds: float, *causes: Cause) -> Changes:
        """Evaluate with these causes, and keep the result."""
        now = NOW + timedelta(seconds=seconds)
        situation = Situation(causes, list(self.open.values()), self.silences)
        changes = evaluate(self.rules, situation, now)
        for alert in changes.saved:
            if alert.resolved_at is None:
                self.open[alert.key] = alert
            else:
                del self.open[alert.key]
                self.resolved.append(alert)
        for alert in changes.dropped:
            del self.open[alert.key]
        self.sent += [(seconds, each.kind, each.alert.group) for each in changes.notices]
        return changes

    def silence(self, until_seconds: float, name: str | None, group: str | None = None) -> None:
        self.silences.append(Silence(name, group, NOW + timedelta(seconds=until_seconds)))


def test_an_alert_fires_once_and_resolves_once() -> None:
    disk = rule()
    watch = Watch(disk)
    for second in range(10):
        watch.at(second, full_disk(disk))
    for second in range(10, 20):
        watch.at(second)
    assert watch.sent == [(0, FIRED, "path=/data"), (10, RESOLVED, "path=/data")]
    assert watch.open == {}


def test_a_condition_must_hold_for_the_duration_of_the_rule() -> None:
    disk = rule(hold=timedelta(seconds=60))
    watch = Watch(disk)
    watch.at(0, full_disk(disk))
    watch.at(59, full_disk(disk))
    assert watch.sent == []
    watch.at(60, full_disk(disk))
    assert watch.sent == [(60, FIRED, "path=/data")]
    assert watch.open["disk_low", "path=/data"].first_seen == NOW


def test_a_disk_around_its_limit_fires_once() -> None:
    disk = rule(resolve_for=timedelta(seconds=60))
    watch = Watch(disk)
    for second in range(0, 600, 10):
        watch.at(second, *([full_disk(disk)] if second % 20 == 0 else []))
    assert watch.sent == [(0, FIRED, "path=/data")]
    for second in range(600, 700, 10):
        watch.at(second)
    assert watch.sent[1:] == [(650, RESOLVED, "path=/data")]


def test_the_alert_of_an_event_resolves_immediately() -> None:
    balance = rule("balance_low", resolve_for=timedelta(seconds=60))
    watch = Watch(balance)
    watch.at(0, Cause("balance_low", "1", "account=1", NOW, "The balance is low."))
    watch.at(10)
    assert watch.sent == [(0, FIRED, "account=1"), (10, RESOLVED, "account=1")]


def test_a_condition_that_ends_too_early_fires_nothing() -> None:
    disk = rule(hold=timedelta(seconds=60))
    watch = Watch(disk)
    watch.at(0, full_disk(disk))
    watch.at(30)
    assert (watch.open, watch.resolved) == ({}, [])
    watch.at(50, full_disk(disk, after_seconds=50))
    watch.at(100, full_disk(disk, after_seconds=50))
    assert watch.sent == []


def test_each_group_has_its_own_alert() -> None:
    disk = rule()
    watch = Watch(disk)
    watch.at(0, full_disk(disk, "/a"), full_disk(disk, "/b"))
    watch.at(1, full_disk(disk, "/b"))
    assert watch.sent == [(0, FIRED, "path=/a"), (0, FIRED, "path=/b"), (1, RESOLVED, "path=/a")]


def test_an_alert_without_labels_covers_all_subjects_until_the_last_one_ends() -> None:
    disk = rule(group_by=())
    watch = Watch(disk)
    watch.at(0, full_disk(disk, "/a"))
    watch.at(1, full_disk(disk, "/a"), full_disk(disk, "/b"))
    assert watch.open["disk_low", "all"].text == "/a is full.\n/b is full."
    watch.at(2, full_disk(disk, "/b"))
    watch.at(3)
    assert watch.sent == [(0, FIRED, "all"), (3, RESOLVED, "all")]


def test_the_text_counts_the_causes_that_it_does_not_list() -> None:
    disk = rule(group_by=())
    watch = Watch(disk)
    watch.at(0, *(full_disk(disk, f"/{number:02}") for number in range(25)))
    lines = watch.open["disk_low", "all"].text.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "There are 15 more."


def test_an_alert_repeats_only_if_its_rule_says_so() -> None:
    disk = rule(repeat=timedelta(seconds=100))
    watch = Watch(disk)
    for second in range(0, 250, 10):
        watch.at(second, full_disk(disk))
    assert [(at, kind) for at, kind, _ in watch.sent] == [
        (0, FIRED),
        (100, REPEATED),
        (200, REPEATED),
    ]


def test_a_momentary_cause_ends_at_its_time() -> None:
    failed = rule("job_failed")
    watch = Watch(failed)
    cause = Cause("job_failed", "1", "job=1", NOW, "Job 1 failed.", NOW + timedelta(seconds=60))
    watch.at(0, cause)
    watch.at(59, cause)
    watch.at(60, cause)
    assert watch.sent == [(0, FIRED, "job=1"), (60, RESOLVED, "job=1")]


def test_a_silence_withholds_the_notice_until_it_ends() -> None:
    disk = rule()
    watch = Watch(disk)
    watch.silence(100, "disk_low")
    watch.at(0, full_disk(disk))
    assert watch.open["disk_low", "path=/data"].fired_at == NOW
    watch.at(99, full_disk(disk))
    assert watch.sent == []
    watch.at(100, full_disk(disk))
    assert watch.sent == [(100, FIRED, "path=/data")]


def test_an_alert_that_ends_during_a_silence_is_never_announced() -> None:
    disk = rule()
    watch = Watch(disk)
    watch.silence(100, "disk_low")
    watch.at(0, full_disk(disk))
    watch.at(50)
    watch.at(150)
    assert watch.sent == []
    assert [alert.resolved_at for alert in watch.resolved] == [NOW + timedelta(seconds=50)]


def test_an_announced_alert_resolves_with_a_notice_even_during_a_silence() -> None:
    disk = rule(repeat=timedelta(seconds=10))
    watch = Watch(disk)
    watch.at(0, full_disk(disk))
    watch.silence(100, None, "path=/data")
    watch.at(20, full_disk(disk))
    watch.at(50)
    assert watch.sent == [(0, FIRED, "path=/data"), (50, RESOLVED, "path=/data")]


def test_a_silence_covers_only_its_rule_and_its_group() -> None:
    disk, process = rule(), rule("process_down")
    watch = Watch(disk, process)
    watch.silence(100, "disk_low", "path=/a")
    watch.silence(100, "process_down")
    down = Cause("process_down", "relay", "process=relay", NOW, "relay is down.")
    watch.at(0, full_disk(disk, "/a"), full_disk(disk, "/b"), down)
    assert watch.sent == [(0, FIRED, "path=/b")]


def test_without_receivers_an_alert_is_stored_and_waits_for_one() -> None:
    watch = Watch(rule(receivers=()))
    watch.at(0, full_disk(rule()))
    alert = watch.open["disk_low", "path=/data"]
    assert (alert.fired_at, alert.notified_at, watch.sent) == (NOW, None, [])
    watch.rules = {"disk_low": rule()}
    watch.at(10, full_disk(rule()))
    assert watch.sent == [(10, FIRED, "path=/data")]


def test_the_alerts_of_a_removed_rule_resolve_without_a_notice() -> None:
    disk = rule()
    watch = Watch(disk)
    watch.at(0, full_disk(disk))
    watch.rules = {}
    watch.at(10, full_disk(disk))
    assert watch.sent == [(0, FIRED, "path=/data")]
    assert len(watch.resolved) == 1


def test_an_evaluation_without_a_change_saves_nothing() -> None:
    disk = rule()
    watch = Watch(disk)
    watch.at(0, full_disk(disk))
    assert watch.at(1, full_disk(disk)) == Changes()


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=40),
    st.integers(0, 100),
    st.integers(0, 500),
)
def test_notices_alternate_between_fired_and_resolved(
    steps: Sequence[tuple[bool, int]], hold: int, silent_until: int
) -> None:
    disk = rule(hold=timedelta(seconds=hold))
    watch = Watch(disk)
    watch.silence(silent_until, "disk_low")
    second, since = 0, None
    for holds, pause in steps:
        second += pause
        since = (since if since is not None else second) if holds else None
        watch.at(second, *([] if since is None else [full_disk(disk, after_seconds=since)]))
    kinds = [kind for _, kind, _ in watch.sent]
    assert kinds == [FIRED, RESOLVED] * (len(kinds) // 2) + [FIRED] * (len(kinds) % 2)
    for alert in watch.resolved:
        assert alert.fired_at is not None
        assert alert.fired_at - alert.first_seen >= disk.hold
