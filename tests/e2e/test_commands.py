"""What an operator and an auditor run while a job is under way, and after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest

from deploy.demo.account import acting_for_the_demo
from deploy.local import stack
from deploy.processes import PROCESSES
from domain.access.role import Role
from domain.core.recorded import Recorded
from domain.replay.causes import Origin, explain
from gateway.schemas import parsed_job_id
from infrastructure.postgres.log_reader import EventReader, Selection
from infrastructure.postgres.store import connect
from tests.polling import eventually
from tests.running import EcoLinkUnderTest

pytestmark = pytest.mark.timeout(600)


PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a shell, wherever the tests run
from deploy.cli import main
main()
"""


def command(ecolink: EcoLinkUnderTest, *arguments: str) -> subprocess.Popen[str]:
    """`ecolink ARGUMENTS` as a person runs it, on the home of the running stack."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=os.environ | {"ECOLINK_HOME": str(ecolink.settings.home), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_jobs_events_pass_on_the_bus_in_order(ecolink: EcoLinkUnderTest, tmp_path: Path) -> None:
    path = ecolink.approve(ecolink.dataset(tmp_path, examples=40), epochs=1, save_steps=2)
    shown_live = command(ecolink, "events", "subscribe", "--job", path.rpartition("/")[2])
    job = ecolink.await_end(path)
    shown, _ = shown_live.communicate(timeout=240)
    assert job["status"] == "registered"
    history = [
        "JobApproved",
        "GpusAllocated",
        "LeaseGranted",
        "PodStarted",
        "TrainingStarted",
        "CheckpointSaved",
        "EvaluationStarted",
        "EvaluationCompleted",
        "Registered",
        "MeterClosed",
    ]
    places = [shown.rindex(f" {topic} ") for topic in history]  # of the last segment
    assert places == sorted(places), shown


@pytest.mark.full
def test_every_charge_of_a_job_leads_back_to_its_approval(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    path = ecolink.approve(ecolink.dataset(tmp_path, examples=40), epochs=40)
    job = ecolink.await_end(path)
    with connect(ecolink.settings) as connection:
        reader = EventReader(connection)
        entries = list(reader.select(Selection(job_id=parsed_job_id(job["id"]))))
        for entry in entries:
            assert isinstance(entry, Recorded)
            found = explain(entry, reader)
            assert [link for step in found.steps for link in step.links if link.problem] == []
            origins = {step.item.event.TOPIC: step.origin for step in found.steps}
            assert Origin.UNKNOWN not in origins.values()
            assert origins.get("JobApproved") is Origin.COMMAND
    topics = {entry.event.TOPIC for entry in entries if isinstance(entry, Recorded)}
    assert {"MinuteMetered", "GpusReleased", "EstimateScored"} <= topics


def test_every_process_is_shown_running(ecolink: EcoLinkUnderTest) -> None:
    status = command(ecolink, "status")
    shown, _ = status.communicate(timeout=240)
    assert status.returncode == 0
    for name in ("postgres", "nats", *PROCESSES):
        assert name in shown


@pytest.mark.skipif("alerts" not in PROCESSES, reason="no alerts")
def test_alerts_are_listed_and_their_process_is_small(
    ecolink: EcoLinkUnderTest, record_property: Callable[[str, object], None]
) -> None:
    listing = command(ecolink, "alerts", "list")
    shown, _ = listing.communicate(timeout=240)
    assert listing.returncode in (0, 1), shown
    found = stack.state(ecolink.settings.home)
    assert found is not None
    mib = {
        name: psutil.Process(child.pid).memory_info().rss / 2**20
        for child in found.children
        for name in ("alerts", "billing")
        if child.runs(name)
    }
    shown = f"memory: alerts {mib['alerts']:.0f} MiB, billing {mib['billing']:.0f} MiB"
    record_property("measured", shown)
    assert mib["alerts"] < 2 * mib["billing"]


def test_the_gateway_finds_no_failed_check(ecolink: EcoLinkUnderTest) -> None:
    account_id = uuid4()
    with acting_for_the_demo(ecolink.settings) as use_cases:
        use_cases.open_account(account_id, Role.OPERATOR)
        _, key = use_cases.issue_key(account_id)
    with httpx.Client(base_url=ecolink.settings.gateway_url or "", timeout=60) as browser:
        browser.post("/sign-in", data={"api_key": key})
        page = browser.get("/ops/checks").text
    assert "data-passed" in page, page


@pytest.mark.full
def test_an_audit_finds_what_was_changed_behind_the_logs_back(ecolink: EcoLinkUnderTest) -> None:
    def audit() -> tuple[int, str]:
        process = command(ecolink, "audit", "verify")
        shown, _ = process.communicate(timeout=240)
        return process.returncode, shown

    eventually(lambda: audit()[0] == 0, timeout=60)
    with connect(ecolink.settings) as connection:
        connection.execute("UPDATE accounts SET balance_micros = balance_micros + 1")
        status, shown = audit()
        connection.execute("UPDATE accounts SET balance_micros = balance_micros - 1")
    assert status == 1
    assert "accounts differs" in shown
    assert audit()[0] == 0


@pytest.mark.full
def test_ctrl_c_ends_the_watching_and_not_the_job(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    launch = command(
        ecolink,
        *("jobs", "launch", "--dataset", ecolink.dataset(tmp_path, examples=40)),
        *("--base-model", "tiny", "--epochs", "40", "--wait", "--watch"),
        *("--max-cost", "none"),
    )
    assert launch.stdout is not None
    told = launch.stdout.readline()
    assert "1,000 or more are recommended" in told
    told = launch.stdout.readline()
    assert "Ctrl-C" in told
    while "loss" not in told:
        told += launch.stdout.readline()
    launch.send_signal(signal.SIGINT)
    told += launch.communicate(timeout=240)[0]
    assert launch.returncode == 130, told
    name = told.split()[1].rstrip(".;")
    assert f"ecolink jobs watch {name}" in told

    watch = command(ecolink, "jobs", "watch", name, "--json")
    shown, _ = watch.communicate(timeout=180)
    assert watch.returncode == 0, shown
    states = [json.loads(line) for line in shown.splitlines()]
    assert {state["id"] for state in states} == {name}
    job = ecolink.await_end(f"/jobs/{name}")
    assert (job["status"], job["segment"]) == ("registered", 1)
    assert states[-1]["cost"] == job["cost"]

    download = command(ecolink, "jobs", "download", name, "--to", str(tmp_path / "adapter"))
    shown, _ = download.communicate(timeout=240)
    assert download.returncode == 0, shown
    verify = command(
        ecolink, "models", "verify", job["model"], "--directory", f"{tmp_path}/adapter"
    )
    shown, _ = verify.communicate(timeout=240)
    assert verify.returncode == 0, shown
