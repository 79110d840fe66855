"""The receivers in docs/use/webhooks.md accept what EcoLink sends, and nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain.jobs.lifecycle import PauseReason
from extensions.notifications.domain.message import Message, WebhookType
from extensions.notifications.domain.signature import new_signing_secret, signed_headers
from tests.builders.examples import ACCOUNT_ID

PAGE = Path(__file__).parents[3] / "docs/use/webhooks.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", EXAMPLES, ids=["openai", "standardwebhooks"])
def test_an_example_verifies_an_event(
    code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, now = new_signing_secret(), datetime.now(UTC)
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    names: dict[str, Any] = {"__name__": "example"}
    # FastAPI looks up the annotations of a route, which would be texts in this module.
    exec(compile(code, "example", "exec", dont_inherit=True), names)
    client = TestClient(names["app"])
    type = WebhookType.JOB_SUCCEEDED
    sent = Message("evt_1", ACCOUNT_ID, type, now, {"id": "ftjob-1"}, "1")
    headers = signed_headers([secret], sent.id, now, sent.body)
    assert client.post("/hooks", content=sent.body, headers=headers).status_code == 204
    assert capsys.readouterr().out == "evt_1 fine_tuning.job.succeeded ftjob-1\n"
    changed = sent.body.replace("succeeded", "failed")
    assert client.post("/hooks", content=changed, headers=headers).status_code == 400
    assert capsys.readouterr().out == ""


def test_the_list_of_events_names_every_reason_of_a_pause() -> None:
    listed = (PAGE.parents[1] / "reference/webhooks.md").read_text()
    assert [each for each in PauseReason if f"`{each}`" not in listed] == []
