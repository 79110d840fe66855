"""`ecolink audit verify`: its JSON document, and a stack that it cannot use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg_pool import ConnectionPool

from deploy.local.errors import StackError
from deploy.operator import audit
from domain.audit.tree_head import LogKey
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from gateway.audit.verification.report import read_report
from gateway.cli.exits import ExitCode
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from services.sealer import verification
from tests.builders.commands import NOW
from tests.builders.history import History
from tests.deploy.operator.command_line import ecolink
from tests.deploy.operator.test_heads import seal
from tests.logs import notifications
from tests.services.projector.test_audit import Audited

SPAN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def traced(command_id: str) -> Iterator[Cause]:
    """Run the block as one command with a span."""
    with because(Cause("account:test", command_id, NOW, traceparent=SPAN)) as cause:
        yield cause


def test_an_audit_fails_with_the_reason_that_no_stack_is_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reason = "Another process uses this home."

    def unusable(*_: object, **__: object) -> None:
        raise StackError(reason)

    monkeypatch.setattr(audit, "database", unusable)
    assert reason in ecolink("audit", "verify", exit_code=ExitCode.FAILED)


def test_the_json_document_is_the_report_of_the_pages(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "LATE_SECONDS", 10.0**9)  # the catalog is older
    key = LogKey("ecolink/test", Ed25519PrivateKey.generate().public_key())
    asked = ("audit", "verify", "--public-key", str(key), "--json")
    output = ecolink(*asked, exit_code=ExitCode.NOT_PROVEN)
    document, last = json.loads(output), log.recorder.max_notification_id()
    assert document["verdict"] == "not_proven"  # nothing is sealed
    assert (document["public_key"], document["key_source"]) == (str(key), "given")
    assert document["options"]["replay"]
    assert (document["head"], document["seals"]["unsealed"]) == (last, document["events"])
    shown = read_report(output)
    assert shown.replay is not None
    assert shown.replay.tables


def test_a_log_with_spans_matches_its_seals_and_its_projections(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection]
) -> None:
    # given a sealed log in which some commands were traced
    history = History(log, command=traced)
    history.run_with_a_crash()
    history.activate(history.deploy_checkpoint(10))
    key = seal(settings, log)
    Audited(settings, log, pool).fold()
    spans = [b'"traceparent"' in each.state for each in notifications(log)]
    assert any(spans)
    assert not all(spans)
    # when an auditor verifies and replays it
    verified = json.loads(ecolink("audit", "verify", "--public-key", str(key), "--json"))
    replayed = ecolink("audit", "replay", "--json")
    # then everything matches, and the replay reads each event
    assert (verified["verdict"], verified["differences"]) == ("matches", [])
    assert verified["options"]["replay"]
    assert (verified["events"], verified["seals"]["unsealed"]) == (len(spans), 0)
    shown = [json.loads(line) for line in replayed.splitlines() if line.startswith("{")]
    assert len(shown) == len(spans)
