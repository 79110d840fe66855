"""A webhook of an account, from the approval of a job to the signed requests."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai import OpenAI

from tests.extensions.notifications.receiving import Request, receiving
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest

TYPES = ["capacity.available", "fine_tuning.job.paused", "fine_tuning.job.succeeded"]


@pytest.mark.full
def test_a_job_sends_its_events_in_order(ecolink: EcoLinkUnderTest, tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver, ecolink.newcomer() as mine:
        form = {"url": receiver.url, "event_types": TYPES}
        webhook = mine.client.post("/webhooks", form)
        job = mine.approve(mine.dataset(tmp_path, 20), epochs=1)
        id = job.rpartition("/")[2]
        mine.await_end(job)

        def of_job() -> list[Request]:
            return [each for each in receiver.received() if each.event["data"]["id"] == id]

        eventually(lambda: TYPES[-1] in [each.event["type"] for each in of_job()], TIMEOUT_SECONDS)
        client = OpenAI(api_key="unused")
        events = [
            client.webhooks.unwrap(each.body, each.headers, secret=webhook["secret"])
            for each in of_job()
        ]
        assert [each.type for each in events] == [TYPES[0], TYPES[-1]]
        path = f"/webhooks/{webhook['id']}"
        eventually(lambda: mine.client.get(path)["pending"] == 0)
        shown = mine.client.get(f"{path}/deliveries")["data"]
        assert {each["status"] for each in shown} == {"delivered"}
        mine.client.delete(path)
