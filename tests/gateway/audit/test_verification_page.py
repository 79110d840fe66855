"""Verifications: the form, the process with its progress, the result, and who may start one."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient

from domain.access.role import Role
from domain.audit.tree_head import LogKey
from domain.billing.meter import Meter
from gateway.audit.verification import pages, process
from gateway.audit.verification.form import LONGEST_KEY
from gateway.audit.verification.pages import LISTED_DIFFERENCES, command, stages_of
from gateway.audit.verification.process import MODULE
from infrastructure.bus.consumer import recorded
from infrastructure.postgres.store import connect
from infrastructure.seals.verifications import (
    KEPT_RUNS,
    Options,
    Outcome,
    Stage,
    Verdict,
    begin,
    fail,
    finish,
    is_running,
    report_progress,
    verification,
    verifications,
    verifying,
)
from infrastructure.settings import Settings
from infrastructure.training.measurements import add_evidence
from services.auditor.verifying import Progress, Request
from services.auditor.verifying import run as run_verification
from tests.builders.entries import Entries, entries_of
from tests.builders.platform import Platform
from tests.gateway.audit.conftest import PUBLIC, Seal, tamper
from tests.gateway.conftest import application, running_gateway
from tests.gateway.web.html import Node, read_html
from tests.gateway.web.signed_in import Browser, signed_in
from tests.logs import notifications
from tests.polling import eventually
from tests.projecting import project

PATH = "/audit/verification"
OTHER = LogKey("ecolink/test", Ed25519PrivateKey.from_private_bytes(b"o" * 32).public_key())


def overview(browser: Browser) -> Node:
    return read_html(browser.client.get(PATH).text)


def submit(browser: Browser, **fields: str) -> Any:
    sent = {"csrf_token": browser.csrf_token, **fields}
    return browser.client.post(PATH, data=sent, follow_redirects=False)


def started(browser: Browser, **fields: str) -> str:
    """Start a verification, and return the path of its page."""
    answer = submit(browser, **({"replay": "yes"} | fields))
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def finished(browser: Browser, path: str) -> Node:
    """Return the page of a verification after it has ended."""

    def ended() -> Node | None:
        page = read_html(browser.client.get(path).text)
        return page if page.find("verdict") else None

    page = eventually(ended)
    assert page is not None
    return page


def verdict(page: Node) -> str:
    return page["verdict"].attributes["data-verdict"]


def differences(page: Node) -> list[Node]:
    return [each for each in page["differences"].all() if "data-kind" in each.attributes]


def report(browser: Browser, path: str) -> dict[str, Any]:
    answer = browser.client.get(f"{path}/report.json")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith('attachment; filename="verification-2')
    return json.loads(answer.text)


@pytest.fixture
def consistent(auditor: Browser, platform: Platform, settings: Settings, seal: Seal) -> str:
    """Project and seal the log, and add the evidence of its minutes. Return the newest head."""
    del auditor  # its account adds events
    with connect(settings) as connection:
        for notification in notifications(platform.log):
            event = recorded(platform.log, notification).event
            if isinstance(event, Meter.MinuteMetered):
                add_evidence(connection, event.job_id, event.segment, event.to_seconds)
        project(platform.log, connection)
    return seal()


@pytest.fixture
def running(settings: Settings, platform: Platform) -> Iterator[UUID]:
    """A verification that another process runs."""
    id = uuid4()
    with verifying(settings) as connection:
        assert connection is not None
        begin(connection, id, platform.person(Role.AUDITOR).account_id, Options(artifacts=True))
        report_progress(connection, id, Stage.REPLAY, 1_200, 4_800)
        yield id


def test_a_clean_log_matches(auditor: Browser, consistent: str, entries: Entries) -> None:
    path = started(auditor)
    page = finished(auditor, path)
    assert verdict(page) == "matches"
    count = len(entries.entries)
    last = entries.entries[-1].id
    summary = f"Events 1 to {last} match their seals."
    assert page["verdict"].text.startswith(f"No differences. {summary}")
    assert report(auditor, path)["summary"] == summary
    assert "not proven" not in page["verdict"].text
    assert page.find("differences") is None
    assert "$0.00" in page["replay"].text
    assert "all equal" in page["tables"].text
    document = report(auditor, path)
    assert (document["verdict"], document["seals"]["events"]) == ("matches", count)
    assert (document["public_key"], document["key_source"]) == (str(PUBLIC), "archive")
    assert document["options"]["replay"]
    assert "artifacts" not in document
    assert page["root"].text == document["seals"]["root"]
    assert "From the operator's archive" in page["key-source"].text
    assert f"ecolink audit verify --public-key {PUBLIC}" in page["own-command"].text
    row = overview(auditor)["runs"].text
    assert "matches" in row
    assert summary in row
    assert "seals, replay" in row


@pytest.mark.full
def test_a_changed_row_is_named_on_the_page_and_in_the_report(
    auditor: Browser, consistent: str, entries: Entries, settings: Settings
) -> None:
    minute = entries.last("MinuteMetered").id
    statement = (
        "UPDATE ecolink_events SET state = convert_to(jsonb_set(convert_from(state, 'UTF8')::jsonb,"
        " '{amount_micros}', '1')::text, 'UTF8') WHERE notification_id = %s"
    )
    tamper(settings, statement, minute)
    path = started(auditor)
    page = finished(auditor, path)
    assert verdict(page) == "differs"
    found = differences(page)
    assert found[0].attributes["data-kind"] == "event_changed"
    assert found[0].text == f"Event {minute} was changed."
    (link,) = (each for each in found[0].all() if each.tag == "a")
    assert link.attributes["href"] == f"/audit/events/{minute}"
    kinds = {each.attributes["data-kind"] for each in found}
    assert {"table", "meter_charge"} <= kinds  # the replay finds it too
    document = report(auditor, path)
    (changed,) = document["seals"]["differences"]
    assert (changed["kind"], changed["position"]) == ("event_changed", minute)
    assert {each["kind"] for each in document["differences"]} <= kinds
    assert "differences" in overview(auditor)["runs"].text


@pytest.mark.full
def test_a_deleted_event_is_named_without_a_link(
    auditor: Browser, consistent: str, entries: Entries, settings: Settings
) -> None:
    saved = entries.last("CheckpointSaved").id
    tamper(settings, "DELETE FROM ecolink_events WHERE notification_id = %s", saved)
    page = finished(auditor, started(auditor, replay=""))
    (found,) = differences(page)
    assert found.text == f"Event {saved} was deleted."
    assert not [each for each in found.all() if each.tag == "a"]
    assert page.find("replay") is None
    assert "--log-only" in page["own-command"].text


@pytest.mark.full
def test_newer_events_and_skipped_ones_are_named_in_the_banner(
    auditor: Browser, consistent: str, platform: Platform, entries: Entries
) -> None:
    last = entries.entries[-1].id
    platform.person()
    newer = len(entries_of(platform.log)) - len(entries.entries)
    page = finished(auditor, started(auditor, replay=""))
    assert verdict(page) == "matches"
    unproven = f"{newer} newer events are not proven yet."
    assert f"Events 1 to {last} match their seals. {unproven}" in page["verdict"].text
    page = finished(auditor, started(auditor, replay="", since=str(last - 1)))
    assert verdict(page) == "partial"
    text = page["verdict"].text
    assert text.startswith(f"A part of the log matches. Events {last} to {last} match their seals.")
    assert f"Events up to {last - 1} were not compared. {unproven}" in text
    assert "is-warn" in page["verdict"].attributes["class"]
    row = overview(auditor)["runs"].text
    assert "a part matches" in row
    assert unproven in row


def test_a_stopped_verification_shows_its_result_and_where_to_continue(
    auditor: Browser,
    consistent: str,
    entries: Entries,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    minute, last = entries.last("MinuteMetered").id, entries.entries[-1].id
    statement = "UPDATE ecolink_events SET topic = 'Other' WHERE notification_id = %s"
    tamper(settings, statement, minute)
    asked = Request(
        settings=settings, id=uuid4(), requested_by=auditor.person.account_id, options=Options()
    )
    path = f"{PATH}/{asked.id}"

    def stop(_: bool) -> None:
        form = read_html(auditor.client.get(path).text)["stop-form"]
        assert form.attributes["action"] == f"{path}/stop"
        answer = auditor.client.post(f"{path}/stop", data=form.fields, follow_redirects=False)
        assert answer.headers["location"] == path
        page = read_html(auditor.client.get(path).text)
        assert page.find("stop-form") is None
        assert "Stopping…" in page.text

    monkeypatch.setattr(Progress, "begin", lambda *_: None)  # the first write follows all events
    run_verification(asked, stop)
    page = finished(auditor, path)
    assert verdict(page) == "differs"
    assert "Stopped by request." in page["verdict"].text
    assert f"Event {minute} was changed." in page["differences"].text
    link = page["continue"].attributes["href"]
    assert link == f"{PATH}?since={last}"
    assert page.find("replay") is None
    form = read_html(auditor.client.get(link).text)["verification-form"]
    assert form.fields["since"] == str(last)
    assert auditor.client.post(f"{path}/stop", data=form.fields).status_code == 200  # too late
    assert finished(auditor, path).find("stop-form") is None


def test_only_an_overseer_stops_a_verification(
    client: TestClient, platform: Platform, running: UUID, settings: Settings
) -> None:
    owner = signed_in(client, platform.person())
    fields = {"csrf_token": owner.csrf_token}
    assert client.post(f"{PATH}/{running}/stop", data=fields).status_code == 403
    with connect(settings) as connection:
        run = verification(connection, running)
    assert run is not None
    assert not run.stopped
    auditor = signed_in(client, platform.person(Role.AUDITOR))
    fields = {"csrf_token": auditor.csrf_token}
    assert client.post(f"{PATH}/{uuid4()}/stop", data=fields).status_code == 404


@pytest.mark.full
def test_an_own_key_and_a_kept_head_are_used(
    auditor: Browser, consistent: str, platform: Platform, seal: Seal
) -> None:
    platform.person()
    seal()
    pasted = consistent.replace("\n", "\r\n")  # as a browser sends it
    path = started(auditor, public_key=f" {PUBLIC} ", kept_head=pasted, since="2", artifacts="yes")
    page = finished(auditor, path)
    document = report(auditor, path)
    assert document["key_source"] == "given"
    assert document["options"]["since"] == 2
    (kept,) = document["options"]["kept_heads"]
    assert kept["size"] < document["seals"]["size"]
    assert f"{kept['size']} events, up to event {kept['last_event']}" in page.text
    assert document["artifacts"]["artifacts"] >= 0


@pytest.mark.full
def test_a_key_that_did_not_sign_the_heads_is_reported(auditor: Browser, consistent: str) -> None:
    page = finished(auditor, started(auditor, public_key=str(OTHER), replay=""))
    assert verdict(page) == "differs"
    assert "is not signed by the key of ecolink/test" in page["differences"].text


def test_invalid_fields_are_marked_and_kept(auditor: Browser, consistent: str) -> None:
    wrong = {"public_key": "x+y", "kept_head": "no head", "since": "soon"}
    answer = submit(auditor, **wrong, artifacts="yes")
    assert answer.status_code == 200
    page = read_html(answer.text)
    for name in wrong:
        if name != "kept_head":  # nothing can be verified without a valid key
            assert repr(wrong[name]) in page[f"{name}-problem"].text
            assert page[name].attributes["aria-invalid"] == "true"
    assert page["public_key"].attributes["value"] == "x+y"
    assert page["kept_head"].text == "no head"
    assert page["verification-form"].fields["artifacts"] == ["yes"]
    assert "replay" not in page["verification-form"].fields
    page = read_html(submit(auditor, kept_head="no head", since="1000000").text)
    assert "is not signed by the key" in page["kept_head-problem"].text
    assert "There is no event 1000000" in page["since-problem"].text
    page = read_html(submit(auditor, public_key="k" * (LONGEST_KEY + 1)).text)
    assert "Enter at most 500" in page["public_key-problem"].text
    assert overview(auditor).find("runs") is None


def test_without_a_key_in_the_archive_the_field_is_marked(auditor: Browser) -> None:
    page = read_html(submit(auditor).text)
    assert "nothing is sealed yet" in page["public_key-problem"].text
    assert page.find("own-command") is None


def test_a_second_start_is_refused_and_shows_the_running_one(
    auditor: Browser, consistent: str, running: UUID
) -> None:
    answer = submit(auditor)
    assert answer.status_code == 409
    page = read_html(answer.text)
    assert "Another verification is running" in page.text
    bar = page["progress"].attributes
    assert (bar["value"], bar["max"]) == ("1200", "4800")
    assert page["stage"].text.startswith("Step 2 of 3")
    assert f'href="{PATH}/{running}"' in answer.text
    assert page.find("verification-form") is None
    assert 'hx-trigger="every 1s"' in answer.text


@pytest.mark.full
def test_the_process_itself_refuses_a_second_start(
    auditor: Browser, consistent: str, running: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "is_running", lambda _: False)  # it began after this answer
    answer = submit(auditor)
    assert answer.status_code == 409
    assert str(running) in answer.text


def test_the_page_updates_itself_while_a_verification_runs(
    auditor: Browser, consistent: str, running: UUID, settings: Settings
) -> None:
    for path, id in ((PATH, "verifications"), (f"{PATH}/{running}", "run")):
        part = auditor.client.get(path, headers=auditor.htmx).text
        assert part.lstrip().startswith(f'<div id="{id}"')
        assert "every 1s" in part
    assert auditor.client.get(f"{PATH}/{running}/report.json").status_code == 404


@pytest.mark.full
def test_the_form_returns_after_the_end(auditor: Browser, consistent: str) -> None:
    finished(auditor, started(auditor, replay=""))
    part = auditor.client.get(PATH, headers=auditor.htmx).text
    assert "every 1s" not in part
    assert read_html(part)["verification-form"].fields["csrf_token"] == auditor.csrf_token


@pytest.mark.full
def test_a_killed_process_is_shown_as_stopped(
    auditor: Browser, consistent: str, settings: Settings
) -> None:
    id = uuid4()
    with verifying(settings) as connection:
        assert connection is not None
        begin(connection, id, auditor.person.account_id, Options())
    page = finished(auditor, f"{PATH}/{id}")
    assert verdict(page) == "stopped"
    assert "Stopped before it finished. Start it again." in page["verdict"].text
    assert "stopped" in overview(auditor)["runs"].text


@pytest.mark.full
def test_a_verification_without_a_report_shows_its_problem(
    auditor: Browser, settings: Settings
) -> None:
    id = uuid4()
    with verifying(settings) as connection:
        assert connection is not None
        begin(connection, id, auditor.person.account_id, Options())
        fail(connection, id, "the artifact store is unreachable")
    page = finished(auditor, f"{PATH}/{id}")
    assert verdict(page) == "failed"
    assert "The artifact store is unreachable." in page["verdict"].text


@pytest.mark.full
def test_a_stopping_gateway_ends_the_process_and_its_page_is_truthful(
    settings: Settings, platform: Platform, projecting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MODULE", "tests.gateway.audit.endless_verification")
    auditor = platform.person(Role.AUDITOR)
    with TestClient(application(settings)) as client:
        starter = client.app.state.verifications  # type: ignore[attr-defined]
        assert client.portal is not None
        id = client.portal.call(starter.start, settings, auditor.account_id, Options())
        children = psutil.Process().children()
        (child,) = (each for each in children if process.MODULE in each.cmdline())
        with connect(settings) as connection:
            run = verification(connection, id)
            assert run is not None
            assert run.is_running
    assert not child.is_running()
    with TestClient(application(settings)) as client:
        page = finished(signed_in(client, auditor), f"{PATH}/{id}")
        assert verdict(page) == "stopped"


@pytest.mark.full
def test_a_killed_gateway_leaves_no_process(
    consistent: str, settings: Settings, platform: Platform
) -> None:
    auditor = platform.person(Role.AUDITOR)
    assert settings.owner_database_url is not None
    with (
        psycopg.connect(settings.owner_database_url) as owner,
        running_gateway(settings, status=-signal.SIGKILL) as gateway,
    ):
        owner.execute("LOCK TABLE segment_evidence")  # the replay waits for it
        url = f"{gateway.url}{PATH}"
        answer = httpx.post(url, data={"replay": "yes"}, headers=auditor.headers, timeout=60)
        assert answer.status_code == 303
        (child,) = (each for each in gateway.process.children() if MODULE in each.cmdline())
        gateway.process.kill()
        child.wait(60)
    with connect(settings) as connection:
        eventually(lambda: not is_running(connection))
        (run,) = verifications(connection)
        assert run.has_stopped


@pytest.mark.full
def test_long_lists_of_differences_are_cut_on_the_page_only(
    auditor: Browser, consistent: str, settings: Settings
) -> None:
    path = started(auditor)
    finished(auditor, path)
    document = report(auditor, path)
    found = [{"kind": "minute_gap", "text": f"minute {n}"} for n in range(LISTED_DIFFERENCES + 7)]
    id = UUID(path.rpartition("/")[2])
    with connect(settings) as connection:
        text = json.dumps(document | {"differences": found})
        finish(connection, id, Outcome(Verdict.DIFFERS, len(found), "Compared."), text)
    page = finished(auditor, path)
    assert len(differences(page)) == LISTED_DIFFERENCES
    assert "7 more are in the report." in page["differences"].text
    assert len(report(auditor, path)["differences"]) == len(found)


@pytest.mark.full
def test_an_auditor_may_verify_and_an_owner_may_not(
    client: TestClient, platform: Platform, seal: Seal
) -> None:
    seal()
    auditor = signed_in(client, platform.person(Role.AUDITOR))
    assert f'<a href="{PATH}"' in client.get("/audit").text
    path = started(auditor, replay="")
    assert verdict(finished(auditor, path)) == "matches"
    owner = signed_in(client, platform.person())
    assert submit(owner).status_code == 403
    for each in (PATH, path, f"{path}/report.json"):
        assert client.get(each).status_code == 403


def test_an_unknown_verification_is_not_found(auditor: Browser) -> None:
    answer = auditor.client.get(f"{PATH}/{uuid4()}")
    assert answer.status_code == 404
    assert f"EcoLink keeps the last {KEPT_RUNS}." in answer.text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(), []),
        (Options(replay=False, since=9), ["--since 9", "--log-only"]),
        (Options(artifacts=True, kept_head="x"), ["--kept-head kept-head.txt", "--artifacts"]),
    ],
)
def test_the_command_makes_the_same_verification(options: Options, expected: list[str]) -> None:
    lines = ["ecolink audit verify --public-key KEY", *expected]
    assert command(options, "KEY").split(" \\\n  ") == lines


def test_the_stages_follow_the_options() -> None:
    assert stages_of(Options()) == [Stage.SEALS, Stage.REPLAY]
    assert stages_of(Options(replay=False, artifacts=True)) == [Stage.SEALS, Stage.ARTIFACTS]
