"""`ecolink audit verify` on a stack that it cannot use."""

from __future__ import annotations

import pytest

from deploy.local.errors import StackError
from deploy.operator import audit
from gateway.cli.exits import ExitCode
from tests.deploy.operator.command_line import ecolink


def test_an_audit_fails_with_the_reason_that_no_stack_is_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reason = "Another process uses this home."

    def unusable(*_: object, **__: object) -> None:
        raise StackError(reason)

    monkeypatch.setattr(audit, "stack", unusable)
    assert reason in ecolink("audit", "verify", exit_code=ExitCode.FAILED)
