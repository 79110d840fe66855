"""The page of an event: fields, causes, effects and proof."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.audit.event_proof import EventProof
from gateway.audit import pages
from infrastructure.accounts.profiles import set_key_name
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.entries import Entries, entries_of
from tests.builders.platform import Platform
from tests.gateway.audit.conftest import PUBLIC, Seal, tamper
from tests.gateway.web.html import Node, read_html
from tests.gateway.web.signed_in import Browser, signed_in


def event_page(browser: Browser, position: int) -> Node:
    answer = browser.client.get(f"/audit/events/{position}")
    assert answer.status_code == 200
    return read_html(answer.text)


def status(page: Node) -> str:
    return page["proof-status"].attributes["data-status"]


def test_the_page_shows_the_fields_of_an_event(auditor: Browser, entries: Entries) -> None:
    approved = entries.last("JobApproved")
    fields = event_page(auditor, approved.id)["fields"].text
    for expected in (approved.event.event_id, approved.event.command_id, "rate_micros_per_hour"):
        assert expected in fields


def test_the_causes_of_a_charge_begin_with_a_command(auditor: Browser, entries: Entries) -> None:
    minute = entries.last("MinuteMetered")
    page = event_page(auditor, minute.id)
    steps = [each for each in page["causes"].all() if each.tag == "li"]
    assert any(
        "JobResumed" in each.text and "A command of a person." in each.text for each in steps
    )
    assert steps[-1].attributes["data-position"] == str(minute.id)
    assert "UsageSettled" in page["together"].text


def test_the_page_lists_the_direct_effects(auditor: Browser, entries: Entries) -> None:
    approved = entries.last("JobApproved")
    effect = next(entries.effects(approved), None)
    page = event_page(auditor, approved.id)
    if effect is None:
        assert "No event names it as its cause." in page["effects"].text
    else:
        assert str(effect.id) in page["effects"].text


def test_a_sealed_event_is_proven_to_whoever_has_the_key(
    auditor: Browser, entries: Entries, seal: Seal
) -> None:
    position = entries.last("MinuteMetered").id
    seal()
    page = event_page(auditor, position)
    assert status(page) == "proven"
    answer = auditor.client.get(f"/audit/events/{position}/proof.json")
    assert answer.headers["content-disposition"].startswith("attachment")
    proof = EventProof.model_validate_json(answer.text)
    assert proof.failures(PUBLIC) == []
    assert page["leaf-hash"].text == proof.leaf_hash


def test_an_event_after_the_newest_head_says_so(
    auditor: Browser, entries: Entries, seal: Seal, platform: Platform
) -> None:
    position = entries.last("MinuteMetered").id
    assert status(event_page(auditor, position)) == "not_sealed"
    assert auditor.client.get(f"/audit/events/{position}/proof.json").status_code == 404
    seal()
    platform.person()
    newest = platform.log.recorder.max_notification_id()
    assert newest is not None
    page = event_page(auditor, newest)
    assert status(page) == "not_sealed"
    assert "The newest head covers events up to" in page["proof-status"].text


def test_a_changed_event_has_no_valid_proof(
    auditor: Browser, entries: Entries, seal: Seal, settings: Settings
) -> None:
    minute = entries.last("MinuteMetered")
    seal()
    statement = (
        "UPDATE ecolink_events SET state = convert_to(replace(convert_from(state, 'UTF8'), "
        "'\"minute\":', '\"minute\": '), 'UTF8') WHERE notification_id = %s"
    )
    tamper(settings, statement, minute.id)
    page = event_page(auditor, minute.id)
    assert status(page) == "changed"
    assert f"Event {minute.id} was changed" in page["proof-status"].text


def test_a_damaged_event_shows_its_problem_and_its_proof(
    auditor: Browser, entries: Entries, seal: Seal, settings: Settings
) -> None:
    minute = entries.last("MinuteMetered")
    seal()
    statement = "UPDATE ecolink_events SET state = '\\x7bff' WHERE notification_id = %s"
    tamper(settings, statement, minute.id)
    page = event_page(auditor, minute.id)
    assert "The state is not JSON." in page.text
    assert status(page) == "changed"


def test_an_unknown_position_is_not_found(auditor: Browser, entries: Entries) -> None:
    unknown = entries.entries[-1].id + 1_000
    assert auditor.client.get(f"/audit/events/{unknown}").status_code == 404
    assert auditor.client.get(f"/audit/events/{unknown}/proof.json").status_code == 404


@pytest.mark.parametrize("path", ["/audit/events/1", "/audit/events/1/proof.json"])
def test_account_holders_see_no_event(client: TestClient, platform: Platform, path: str) -> None:
    assert signed_in(client, platform.person()).client.get(path).status_code == 403
    assert signed_in(client, platform.person(Role.AUDITOR)).client.get(path).status_code != 403


def test_the_page_names_the_key_that_acted(auditor: Browser, platform: Platform) -> None:
    owner = platform.person()
    member = platform.key(owner.account_id, KeyRequest(role=Role.MEMBER))
    with connect(platform.settings) as connection:
        set_key_name(connection, member.key_id, "build server")
    acting = replace(platform, cause=replace(platform.cause, actor=f"key:{member.key_id}"))
    acting.upload(owner.account_id, b"content")
    uploaded = entries_of(platform.log)[-1]
    actor = event_page(auditor, uploaded.id)["actor"]
    assert actor.text == f"member key …{member.key[-4:]} “build server” key:{member.key_id}"
    (link,) = (each for each in actor.all() if each.tag == "a")
    page = read_html(auditor.client.get(link.attributes["href"]).text)
    assert f"{member.key_id}:1" in page["fields"].text


def test_the_page_shows_an_actor_that_the_log_does_not_have(
    auditor: Browser, platform: Platform
) -> None:
    owner = platform.person()
    for actor in (
        f"account:{owner.account_id}",
        "key:00000000-0000-4000-8000-000000000000",
        "key:x",
    ):
        replace(platform, cause=replace(platform.cause, actor=actor)).credit(owner, 1)
        page = event_page(auditor, entries_of(platform.log)[-1].id)
        assert page["actor"].text == actor
        assert ("actor" in notes(page)) == actor.startswith("key:")


def test_the_page_marks_an_event_of_a_key_of_another_account(
    auditor: Browser, platform: Platform
) -> None:
    owner, other = platform.person(), platform.person()
    forged = replace(platform, cause=replace(platform.cause, actor=f"key:{other.key_id}"))
    forged.credit(owner, 1)
    page = event_page(auditor, entries_of(platform.log)[-1].id)
    assert f"this key belongs to account {other.account_id}" in page.text
    assert "(invalid)" in page["actor"].text


def test_the_page_lists_a_limited_number_of_causes(
    auditor: Browser, entries: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    minute = entries.last("MinuteMetered")
    assert "earlier-causes" not in notes(event_page(auditor, minute.id))
    monkeypatch.setattr(pages, "LISTED_EVENTS", 2)
    page = event_page(auditor, minute.id)
    assert "earlier-causes" in notes(page)
    assert len([each for each in page["causes"].all() if each.tag == "li"]) == 3


def notes(page: Node) -> list[str]:
    return [each.attributes["data-note"] for each in page.all() if "data-note" in each.attributes]
