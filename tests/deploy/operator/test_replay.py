"""`ecolink audit replay`, `show` and `why`, on a job that was paused at zero and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from domain.billing.budget import BudgetName, BudgetPeriod
from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from domain.jobs.job_request import JobRequest
from gateway.cli.exits import ExitCode
from gateway.schemas import job_name
from infrastructure.accounts.profiles import add_account_name
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.commands import command
from tests.builders.entries import Entries, entries_of
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.builders.history import History
from tests.builders.platform import Platform
from tests.deploy.operator.command_line import ecolink
from tests.domain.jobs.test_job_request import CHOICES, ORDER
from tests.simulation.story import SECOND_MICROS, Story, told


@pytest.fixture
def story(unseeded: None, log: EventLog) -> Story:
    del unseeded  # only empties the log
    return told(log)


@pytest.fixture
def entries(story: Story) -> Entries:
    return Entries(entries_of(story.platform.log))


def replayed(*options: str, exit_code: int = 0) -> list[dict[str, Any]]:
    output = ecolink("audit", "replay", "--json", *options, exit_code=exit_code)
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def shown(*arguments: str) -> dict[str, Any]:
    return json.loads(ecolink("audit", "show", *arguments, "--json"))


def time_of(item: Recorded) -> str:
    return item.event.timestamp.isoformat()


def test_a_replay_prints_the_whole_log_as_json_lines(entries: Entries) -> None:
    lines = replayed()
    assert [line["position"] for line in lines] == [each.id for each in entries.entries]
    approved = entries.last("JobApproved")
    (line,) = (line for line in lines if line["topic"] == "JobApproved")
    assert line["id"] == approved.event.event_id
    assert line["actor"] == "account"
    assert line["fields"]["plan"]["base_model"] == "tiny"
    (minute, *_) = (line for line in lines if line["topic"] == "MinuteMetered")
    assert minute["text"] == "Minute 1 billed: 60 s, $0.06."


@pytest.mark.full
def test_the_filters_of_a_replay_combine(story: Story, entries: Entries) -> None:
    resumed = entries.last("JobResumed")
    options = ("--account", str(story.account_id), "--job", job_name(story.job_id))
    lines = replayed(*options, "--from", time_of(resumed))
    assert lines[0]["topic"] == "JobResumed"
    assert "Registered" in [line["topic"] for line in lines]
    assert {line["account_id"] for line in lines} == {str(story.account_id)}
    earlier = replayed(*options, "--until", time_of(resumed))
    assert len(earlier) + len(lines) == len(replayed(*options))
    assert replayed("--account", str(uuid4())) == []


def test_a_timeline_has_the_time_position_topic_actor_and_text(
    story: Story, entries: Entries
) -> None:
    paused = entries.last("JobPaused")
    output = ecolink("audit", "replay", "--job", job_name(story.job_id))
    (line,) = (line for line in output.splitlines() if "JobPaused" in line)
    assert line.split()[0] == str(paused.id)
    assert f"{paused.event.timestamp:%Y-%m-%d %H:%M:%S}.000 UTC" in line
    assert "service:scheduler" in line
    assert line.endswith("Paused: the balance reached zero. Billing is stopped.")


def test_a_timeline_names_the_role_and_the_end_of_a_key(settings: Settings, log: EventLog) -> None:
    platform = Platform(settings, log)
    person = platform.person()
    replace(platform, cause=replace(platform.cause, actor=f"key:{person.key_id}")).credit(person, 1)
    options = ("--account", str(person.account_id))
    (line,) = (
        line for line in ecolink("audit", "replay", *options).splitlines() if "Credit" in line
    )
    assert f"  owner key …{person.key[-4:]}  " in line
    *_, credit = replayed(*options)
    assert (credit["actor"], credit["key"]["role"]) == (f"key:{person.key_id}", "owner")


def test_a_damaged_event_is_printed_with_its_position(
    story: Story, entries: Entries, settings: Settings
) -> None:
    paused = entries.last("JobPaused")
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        owner.execute(
            "UPDATE ecolink_events SET state = '\\x1b5b' WHERE notification_id = %s", [paused.id]
        )
    name = job_name(story.job_id)
    lines = replayed("--job", name, exit_code=ExitCode.FAILED)
    (line,) = (line for line in lines if "problem" in line)
    assert line == {
        "position": paused.id,
        "id": paused.event.event_id,
        "topic": "JobPaused",
        "problem": "the state is not JSON",
    }
    output = ecolink("audit", "replay", "--job", name, exit_code=ExitCode.FAILED)
    assert f"DAMAGED event {paused.event.event_id}" in output
    assert "1 event is damaged" in output
    output = ecolink("audit", "show", "job", name, exit_code=ExitCode.FAILED)
    assert f"Event {paused.id} (JobPaused) is damaged" in output
    output = ecolink("audit", "why", str(paused.id), exit_code=ExitCode.FAILED)
    assert "is damaged" in output


@pytest.mark.full
def test_a_forged_topic_cannot_control_the_terminal(entries: Entries, settings: Settings) -> None:
    last = entries.entries[-1]
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        owner.execute(
            "UPDATE ecolink_events SET topic = %s WHERE notification_id = %s",
            ["\x1b[2J", last.id],
        )
    for arguments in (["replay"], ["why", str(last.id)]):
        output = ecolink("audit", *arguments, exit_code=ExitCode.FAILED)
        assert "[2J" in output
        assert "\x1b" not in output


@pytest.mark.full
def test_a_job_is_shown_as_of_a_time(story: Story, entries: Entries) -> None:
    name, paused = job_name(story.job_id), entries.last("JobPaused")
    then = shown("job", name, "--at", time_of(paused))
    assert then["status"] == "paused"
    assert then["cost_micros"] == 100 * SECOND_MICROS
    assert then["log"]["source"] == "event log"
    assert [each["billed_seconds"] for each in then["segments"]] == [100]
    assert len(then["checkpoints"]) == 2
    now = shown("job", name)
    assert (now["status"], now["cost_micros"]) == ("registered", 230 * SECOND_MICROS)
    assert now["log"]["next"] is None
    assert now["model"] is not None


def test_a_job_is_shown_as_of_an_event(story: Story, entries: Entries) -> None:
    name, allocated = job_name(story.job_id), entries.all("PodStarted")[0]
    then = shown("job", name, "--at-event", str(allocated.id))
    assert then["running_segment"] == 1
    assert then["reserved_micros"] == 100 * SECOND_MICROS
    assert then["log"]["as_of"]["position"] == allocated.id


def test_a_request_without_a_job_is_shown(log: EventLog) -> None:
    with command("request"):
        log.commit(JobRequest.ordered(JOB_ID, ACCOUNT_ID, CHOICES, ORDER))
    found = shown("job", job_name(JOB_ID))
    assert (found["status"], found["plan"], found["cost_micros"]) == ("validating_files", None, 0)
    assert "validating_files" in ecolink("audit", "show", "job", job_name(JOB_ID))


@pytest.mark.full
def test_a_shown_job_says_that_the_log_alone_decides(story: Story, entries: Entries) -> None:
    paused = entries.last("JobPaused")
    name = job_name(story.job_id)
    output = ecolink("audit", "show", "job", name, "--at-event", str(paused.id))
    assert "Read from the log alone, without any read model or snapshot." in output
    assert f"As of event {paused.id} at " in output
    assert "Not included: event " in output
    assert "lease_ended" in output
    assert "$0.10" in output


def test_an_account_is_shown_with_its_budgets(history: History) -> None:
    history.open_account(1_000_000)
    with history.changing_account() as account:
        account.set_budget(BudgetName(BudgetPeriod.MONTH), 500, 0)
        account.settle(captured_micros=400, reserved_micros=400)
    (budget,) = shown("account", str(history.account_id))["budgets"]
    assert budget == {
        "period": "month",
        "key_id": None,
        "limit_micros": 500,
        "spent_micros": 400,
        "starts_on": "2026-11-01",
        "warned_percent": 80,
    }
    output = ecolink("audit", "show", "account", str(history.account_id))
    for text in ("Budgets", "all jobs", "$0.0004", "80%"):
        assert text in output


def test_an_account_is_shown_as_of_a_moment(story: Story, entries: Entries) -> None:
    depleted = entries.last("JobPaused")
    account = str(story.account_id)
    then = shown("account", account, "--at-event", str(depleted.id))
    assert then["topped_up_micros"] == 100 * SECOND_MICROS
    training = entries.all("PodStarted")[0]
    then = shown("account", account, "--at-event", str(training.id))
    assert then["reserved_micros"] == 100 * SECOND_MICROS
    (reservation,) = then["reservations"]
    assert reservation["job_id"] == job_name(story.job_id)
    assert reservation["reserved_micros"] == then["reserved_micros"]
    now = shown("account", account)
    assert now["balance_micros"] == 870 * SECOND_MICROS
    assert now["reservations"] == []
    output = ecolink("audit", "show", "account", account)
    assert "$0.87" in output


def test_the_keys_of_an_account_are_shown_with_their_rights(history: History) -> None:
    history.open_account(SECOND_MICROS)
    key = history.issue_key()
    (found,) = shown("account", str(history.account_id))["keys"]
    assert (found["key_id"], found["hint"]) == (str(key.id), key.hint)
    assert (found["role"], found["scopes"]) == (key.rights.role, list(key.rights.scopes))
    assert found["revoked_at"] is None
    output = ecolink("audit", "show", "account", str(history.account_id))
    assert str(key.id) in output
    assert ", ".join(key.rights.scopes) in output


@pytest.mark.full
def test_what_does_not_exist_at_the_moment_is_refused(story: Story, entries: Entries) -> None:
    name, approved = job_name(story.job_id), entries.last("JobApproved")
    early = (approved.event.timestamp - timedelta(days=1)).isoformat()
    missing = ExitCode.NOT_FOUND
    output = ecolink("audit", "show", "job", name, "--at", early, exit_code=missing)
    assert f"Its first event is {approved.id}" in output
    output = ecolink("audit", "show", "job", job_name(uuid4()), exit_code=missing)
    assert "The log has no job ftjob-" in output
    output = ecolink("audit", "show", "account", str(uuid4()), exit_code=missing)
    assert "The log has no account" in output
    end = entries.entries[-1].id
    output = ecolink(
        *("audit", "show", "job", name, "--at-event", str(end + 1)), exit_code=ExitCode.FAILED
    )
    assert f"The log ends at event {end}" in output


def test_why_leads_from_a_charge_to_the_click(entries: Entries) -> None:
    minute = entries.all("MinuteMetered")[0]
    document = json.loads(ecolink("audit", "why", str(minute.id), "--json"))
    chain = document["chain"]
    assert chain[0]["event"]["topic"] == "JobApproved"
    assert chain[0]["origin"] == "command"
    assert chain[-1]["event"]["position"] == minute.id
    assert chain[-1]["causes"][0]["basis"] == "rule"
    output = ecolink("audit", "why", minute.event.event_id)
    assert "a command of account" in output
    assert "by EcoLink's rules" in output
    assert "named by the event" in output
    assert "No event names it as its cause." in output


def test_why_lists_direct_effects(entries: Entries) -> None:
    allocated = entries.all("SegmentAllocated")[0]
    output = ecolink("audit", "why", str(allocated.id))
    effects = output.partition("Direct effects")[2]
    assert "MeterOpened" in effects
    assert "LeaseGranted" in effects


def test_why_says_that_a_cause_is_missing(entries: Entries, settings: Settings) -> None:
    opened = entries.all("MeterOpened")[0]
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        owner.execute("DELETE FROM ecolink_events WHERE topic = 'SegmentAllocated'")
    output = ecolink("audit", "why", str(opened.id))
    assert f"cause missing: The log has no event {opened.event.causation_id}" in output


def test_an_unknown_event_is_refused() -> None:
    for name in ("999999", "nonsense", f"{uuid4()}:1"):
        output = ecolink("audit", "why", name, exit_code=ExitCode.NOT_FOUND)
        assert f"The log has no event '{name}'" in output


@pytest.mark.parametrize("option", ["--from", "--until"])
def test_a_time_needs_a_time_zone(option: str) -> None:
    output = ecolink("audit", "replay", option, "2026-11-24T12:00:00", exit_code=2)
    assert "has no time zone" in output
    output = ecolink("audit", "replay", option, "yesterday", exit_code=2)
    assert "'yesterday' is not a time" in output


def test_a_time_and_an_event_exclude_each_other() -> None:
    arguments = ("audit", "show", "account", str(uuid4()), "--at-event", "1")
    output = ecolink(*arguments, "--at", "2026-11-24T12:00:00Z", exit_code=2)
    assert "exclude each other" in output


@pytest.mark.full
def test_a_date_means_its_first_moment_in_utc(entries: Entries) -> None:
    (last, *_) = reversed([each for each in entries.entries if isinstance(each, Recorded)])
    day = last.event.timestamp.date()
    assert replayed("--until", day.isoformat()) == []
    later = (day + timedelta(days=1)).isoformat()
    assert len(replayed("--from", day.isoformat(), "--until", later)) == len(entries.entries)


def test_an_account_can_be_named(story: Story, settings: Settings) -> None:
    with connect(settings) as connection:
        add_account_name(connection, story.account_id, "alice")
    assert replayed("--account", "alice") == replayed("--account", str(story.account_id))
    assert shown("account", "alice")["account_id"] == str(story.account_id)


def test_an_unknown_account_name_is_refused() -> None:
    output = ecolink("audit", "replay", "--account", "bob", exit_code=ExitCode.NOT_FOUND)
    assert "Unknown account 'bob'" in output
