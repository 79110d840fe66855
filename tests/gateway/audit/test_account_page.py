"""The page of an account as of an event."""

from __future__ import annotations

from uuid import uuid4

import pytest

from domain.core.money import exact_dollars
from domain.replay.past import Moment
from gateway.audit.service import Auditor
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.entries import Entries
from tests.gateway.web.html import read_html
from tests.gateway.web.signed_in import Browser
from tests.simulation.story import Story


@pytest.mark.full
@pytest.mark.parametrize("topic", ["AccountOpened", "UsageSettled", "Registered"])
def test_a_past_state_is_that_of_the_log(
    auditor: Browser, story: Story, entries: Entries, settings: Settings, topic: str
) -> None:
    position = entries.last(topic).id
    if topic == "AccountOpened":  # the last one is that of the operator
        position = entries.all(topic)[0].id
    answer = auditor.client.get(f"/audit/accounts/{story.account_id}?at={position}")
    assert answer.status_code == 200, answer.text
    page = read_html(answer.text)
    with connect(settings) as connection:
        past = Auditor(connection).account(story.account_id, Moment(event=position))
    assert f"Balance {exact_dollars(past.balance_micros)}" in page["state"].text
    assert f"Reserved {exact_dollars(past.reserved_micros)}" in page["state"].text
    assert page["at"].attributes["value"] == str(past.log.as_of.position)


def test_an_unknown_account_or_event_is_not_found(auditor: Browser, story: Story) -> None:
    for path in (f"/audit/accounts/{uuid4()}", f"/audit/accounts/{story.account_id}?at=999999999"):
        assert auditor.client.get(path).status_code in (404, 422)
