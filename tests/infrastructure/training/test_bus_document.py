"""The AsyncAPI document of the bus, and the example of a subscriber."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from nats.js import JetStreamContext

from deploy.bus_access import SUBSCRIBER
from deploy.local.home import Home
from domain.core.event_log import EventLog
from infrastructure.bus.streams import AGGREGATE_OF, STREAMS, provision
from infrastructure.settings import Settings
from infrastructure.training.bus_document import document
from tests.builders.history import History
from tests.docs.stored_events import examples, version_of
from tests.logs import envelopes

ROOT = Path(__file__).parents[3]
DOCUMENT = document()
ROWS = examples()
CURRENT = {
    topic: max(version_of(row["state"]) for row in ROWS if row["topic"] == topic)
    for topic in AGGREGATE_OF
}


def problems(topic: str, message: dict[str, Any]) -> list[str]:
    """Return the problems of a message of the stream EVENTS."""
    ref = f"#/components/schemas/{topic}Message"
    schema = {"$ref": ref, "components": DOCUMENT["components"]}
    return [str(each.message) for each in jsonschema_rs.validator_for(schema).iter_errors(message)]


@pytest.mark.parametrize("topic", sorted(AGGREGATE_OF))
def test_a_stored_event_has_the_documented_form(topic: str) -> None:
    (state,) = (
        row for row in ROWS if (row["topic"], version_of(row["state"])) == (topic, CURRENT[topic])
    )
    message = {"id": 2, "prev_id": 1, **state}
    assert problems(topic, message) == []
    del message["state"]["account_id"]
    assert problems(topic, message) != []


def test_published_events_have_the_documented_form_and_subject(log: EventLog) -> None:
    History(log).run_with_a_crash()
    for envelope in envelopes(log):
        assert problems(envelope.topic, json.loads(envelope.model_dump_json())) == []
        address = DOCUMENT["channels"][envelope.topic]["address"]
        parts = {
            "account_id": envelope.state["account_id"],
            "originator_id": envelope.originator_id,
        }
        assert address.format(**parts) == envelope.subject


def test_every_subject_of_a_stream_is_documented() -> None:
    kinds = {each["address"].partition(".")[0] for each in DOCUMENT["channels"].values()}
    subjects = {subject.partition(".")[0] for each in STREAMS for subject in each.subjects or ()}
    assert kinds == subjects


@pytest.fixture
def access(settings: Settings, servers: Settings, tmp_path: Path) -> dict[str, str]:
    """Environment variables with the address and the credentials of a subscribing program."""
    assert settings.nats_url is not None
    file = tmp_path / "subscriber.creds"
    file.write_text(Home(servers.home).passwords().nats.credentials(SUBSCRIBER))
    return {
        "ECOLINK_NATS_URL": settings.nats_url,
        "ECOLINK_NATS_CREDENTIALS": str(file),
    }


def example() -> str:
    """Return the program in the documentation."""
    return (ROOT / "docs/use/bus.md").read_text().partition("```python\n")[2].partition("```")[0]


async def printed(folder: Path, access: dict[str, str], count: int) -> list[str]:
    """Run the example until it has printed a number of charges."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "faststream", "run", "watch_charges:app"),
        cwd=folder,
        env=os.environ | access,
        stdout=asyncio.subprocess.PIPE,
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        while len(lines) < count and (line := (await process.stdout.readline()).decode()):
            if "$" in line:
                lines.append(line)
    finally:
        process.terminate()
        await process.wait()
    return lines


@pytest.mark.full
async def test_the_example_prints_each_charge_once(
    js: JetStreamContext, log: EventLog, access: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "watch_charges.py").write_text(example())
    await provision(js, ())
    history = History(log)
    history.run_until("training")
    sent = 0
    for seconds in (130, 250):
        history.bill(1, seconds)
        new = envelopes(log)[sent:]
        for each in new:
            await js.publish(each.subject, each.model_dump_json().encode())
        sent += len(new)
        charges = [each.id for each in new if each.topic == "MinuteMetered"]
        assert charges
        lines = await printed(tmp_path, access, len(charges))
        assert [int(line.split()[0]) for line in lines] == charges
        assert all(str(history.job_id) in line for line in lines)
