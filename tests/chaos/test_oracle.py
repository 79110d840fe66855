"""The oracle finds no fault in a healthy run, and each of its rules can be violated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import oracle
from tests.chaos.records import Event, Records, Row
from tests.chaos.sample import ACCOUNT, JOB, healthy

Break = Callable[[Records], object]


def find(records: Records, topic: str, nth: int = 0) -> Event:
    return [each for each in records.events if each.topic == topic][nth]


def change(records: Records, topic: str, nth: int = 0, **fields: object) -> None:
    find(records, topic, nth).state.update(fields)


def remove(records: Records, topic: str, nth: int = 0) -> None:
    records.events.remove(find(records, topic, nth))


def replace(records: Records, replaced: str, **columns: object) -> None:
    event = find(records, replaced)
    records.events[records.events.index(event)] = event._replace(**columns)


def facts(records: Records, segment: int, kind: str) -> list[Row]:
    (name,) = (each for each in records.facts if each.startswith(f"{JOB}-{segment}."))
    return [fact for fact in records.facts[name] if fact["kind"] == kind]


def row(records: Records, table: str) -> Row:
    return records.tables[table][0]


def forget_reports(records: Records) -> None:
    """The trainer of the first segment was last seen after two seconds."""
    (name,) = (each for each in records.facts if each.startswith(f"{JOB}-1."))
    records.facts[name] = [each for each in records.facts[name] if each.get("elapsed", 0) < 3]


def register_without_report(records: Records) -> None:
    for fact in facts(records, 2, "report"):
        fact["final"] = False


def overlap(records: Records) -> None:
    for fact in facts(records, 2, "work"):
        fact["mono"] -= 16


def overwork(records: Records) -> None:
    facts(records, 2, "work")[-1]["elapsed"] = 30.0


def unpaid(records: Records) -> None:
    facts(records, 1, "acked")[-1]["elapsed"] = 11.0


def lose_message(records: Records) -> None:
    """The relay skipped an event."""
    del records.stream[5]
    for message in records.stream[5:]:
        message["sequence"] -= 1


BREAKS: list[tuple[str, Break]] = [
    ("versions_are_gapless", lambda r: replace(r, "PodStarted", version=9)),
    ("the_stream_equals_the_log", lambda r: lose_message(r)),
    ("the_stream_equals_the_log", lambda r: r.stream.pop()),
    ("the_stream_equals_the_log", lambda r: r.stream.append(r.stream[-1])),
    ("the_stream_equals_the_log", lambda r: r.stream[4].update(prev_id=2)),
    ("the_stream_equals_the_log", lambda r: r.stream.clear()),
    (
        "handled_events_have_one_effect",
        lambda r: change(r, "EvaluationStarted", command_id="billing:7"),
    ),
    ("leaders_write_in_turn", lambda r: r.writes[0].update(ids=[14])),
    (
        "nothing_is_parked_or_behind",
        lambda r: r.tables["parked_events"].append(
            {"consumer": "billing", "notification_id": 7, "error": "Invalid"}
        ),
    ),
    (
        "nothing_is_parked_or_behind",
        lambda r: row(r, "projection_positions").update(position=3),
    ),
    (
        "nothing_is_parked_or_behind",
        lambda r: row(r, "ecolink_tracking").update(notification_id=3),
    ),
    ("everything_settles", lambda r: setattr(r, "unsettled", "a job is still running")),
    ("minutes_are_contiguous_and_exact", lambda r: change(r, "MinuteMetered", minute=2)),
    ("minutes_are_contiguous_and_exact", lambda r: change(r, "MinuteMetered", 1, from_seconds=2)),
    ("minutes_are_contiguous_and_exact", lambda r: change(r, "MinuteMetered", amount_micros=2999)),
    ("minutes_are_contiguous_and_exact", lambda r: change(r, "LeaseGranted", paid_seconds=2)),
    ("minutes_are_contiguous_and_exact", lambda r: change(r, "MeterClosed", released_micros=1)),
    (
        "minutes_are_contiguous_and_exact",
        lambda r: change(r, "LostWorkCredited", amount_micros=1),
    ),
    ("leases_are_reserved_and_paid", lambda r: change(r, "UsageSettled", reserved_micros=13_000)),
    ("leases_are_reserved_and_paid", lambda r: change(r, "ToppedUp", amount_micros=10_000)),
    (
        "every_charge_reaches_the_account_once",
        lambda r: change(r, "UsageSettled", 1, captured_micros=6000),
    ),
    ("every_charge_reaches_the_account_once", lambda r: remove(r, "ChargeReversed")),
    ("nothing_is_reserved_when_idle", lambda r: row(r, "accounts").update(reserved_micros=1)),
    ("nothing_is_reserved_when_idle", lambda r: remove(r, "MeterClosed")),
    ("no_one_pays_without_evidence", forget_reports),
    ("no_evidence_stays_unpaid", unpaid),
    ("trainers_stop_at_the_end_of_their_lease", overwork),
    ("one_trainer_works_at_a_time", overlap),
    ("lost_work_is_credited_if_the_platform_lost_it", lambda r: remove(r, "LostWorkCredited")),
    (
        "lost_work_is_credited_if_the_platform_lost_it",
        lambda r: change(r, "SegmentEnded", failure="bad_data"),
    ),
    ("lost_work_is_credited_if_the_platform_lost_it", register_without_report),
    (
        "every_killed_segment_is_the_platforms_fault",
        lambda r: change(r, "SegmentEnded", failure="loss_diverged"),
    ),
    ("balances_equal_the_log", lambda r: row(r, "accounts").update(balance_micros=1)),
    ("the_ledger_equals_the_log", lambda r: r.tables["billing_ledger"].pop()),
    ("the_ledger_equals_the_log", lambda r: row(r, "billing_ledger").update(amount_micros=1)),
    ("job_rows_equal_the_log", lambda r: row(r, "job_detail").update(status="training")),
    ("job_rows_equal_the_log", lambda r: row(r, "job_detail").update(charged_micros=1)),
    ("job_rows_equal_the_log", lambda r: r.tables["job_detail"].clear()),
    (
        "open_meters_equal_the_log",
        lambda r: r.tables["open_meters"].append({"job_id": JOB, "segment": 2}),
    ),
    ("gpus_never_exceed_capacity", lambda r: change(r, "CapacityChanged", capacity=0)),
    ("no_gpu_is_held_when_idle", lambda r: remove(r, "GpusReleased", 1)),
    ("gpus_never_exceed_capacity", lambda r: remove(r, "GpusRequested", 1)),
    ("pools_equal_the_log", lambda r: row(r, "gpu_pools").update(held=1)),
    (
        "jobs_end_as_their_owners_want",
        lambda r: r.commands.append({"command": "cancel", "job": JOB, "status": 200}),
    ),
    ("jobs_end_as_their_owners_want", lambda r: replace(r, "Registered", topic="JobFailed")),
    ("acknowledged_commands_are_in_the_log_once", lambda r: remove(r, "ToppedUp")),
    ("acknowledged_commands_are_in_the_log_once", lambda r: remove(r, "JobApproved")),
    (
        "acknowledged_commands_are_in_the_log_once",
        lambda r: r.events.append(find(r, "JobApproved")),
    ),
    (
        "acknowledged_commands_are_in_the_log_once",
        lambda r: r.commands.append(
            {"command": "pause", "job": JOB, "account": ACCOUNT, "status": 200}
        ),
    ),
    ("stored_files_match_the_log", lambda r: r.files.pop("jobs/1/4/manifest.json")),
    ("stored_files_match_the_log", lambda r: r.files.update({"jobs/2/8/state.bin": "other"})),
    ("stored_files_match_the_log", lambda r: r.files.update({"jobs/adapter/manifest.json": "x"})),
    ("exports_end_with_their_files", lambda r: remove(r, "ExportCompleted")),
    ("exports_end_with_their_files", lambda r: remove(r, "ExportRequested")),
    ("exports_end_with_their_files", lambda r: r.files.pop("exports/1/manifest.json")),
    ("syntheses_end_with_one_dataset", lambda r: r.events.append(find(r, "BatchCompleted"))),
    ("syntheses_end_with_one_dataset", lambda r: r.events.append(find(r, "BatchStarted"))),
    ("syntheses_end_with_one_dataset", lambda r: remove(r, "SynthesisApproved")),
    ("syntheses_end_with_one_dataset", lambda r: r.events.append(find(r, "DatasetCreated"))),
    ("syntheses_end_with_one_dataset", lambda r: r.files.update({"syntheses/1/1": "other"})),
    ("trackers_have_each_measurement_once", lambda r: r.tracked[JOB].remove(2)),
    ("trackers_have_each_measurement_once", lambda r: r.tracked[JOB].extend([1, 2])),
]
"""A rule, and a change of the healthy records that violates it, perhaps together with others."""


def test_a_healthy_run_violates_no_rule() -> None:
    assert oracle.violations(healthy()) == []


@pytest.mark.parametrize(
    ("rule", "damage"), BREAKS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(BREAKS)]
)
def test_damaged_records_violate_the_rule(rule: str, damage: Break) -> None:
    records = healthy()

    damage(records)

    found = oracle.violations(records)
    assert rule in {each.partition(":")[0] for each in found}


def test_deleted_messages_violate_no_rule() -> None:
    records = healthy()
    del records.stream[:3], records.stream[5:8]
    assert oracle.violations(records) == []


def test_each_rule_can_be_violated() -> None:
    assert {each.__name__ for each in oracle.RULES} == {name for name, _ in BREAKS}


def test_records_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "records.json.gz"

    healthy().dump(path)

    assert Records.load(path) == healthy()


@pytest.mark.parametrize(("reason", "is_loss"), [("stopped", False), ("crashed", True)])
def test_a_segment_that_is_cancelled_before_the_log_names_its_pod_is_no_loss(
    reason: str, is_loss: bool
) -> None:
    records = healthy()
    started = find(records, "PodStarted")
    replace(records, "PodStarted", topic="CancelRequested", state=started.state)
    change(records, "SegmentEnded", reason=reason, failure="bad_data", elapsed_seconds=0)
    rule = oracle.every_killed_segment_is_the_platforms_fault
    assert bool(list(rule(oracle.Run(records)))) is is_loss
