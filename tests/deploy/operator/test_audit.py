"""`ecolink audit verify`: its JSON document, and a stack that it cannot use."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.local.errors import StackError
from deploy.operator import audit
from domain.audit.tree_head import LogKey
from domain.core.event_log import EventLog
from gateway.audit.verification.report import read_report
from gateway.cli.exits import ExitCode
from services.sealer import verification
from tests.deploy.operator.command_line import ecolink


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
