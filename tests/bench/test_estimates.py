"""The benchmark of estimates: its jobs, and that one failed job does not end it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from deploy.demo.account import DemoAccount
from domain.training.hyperparameters import Hyperparameters
from gateway.cli.client import ClientError
from infrastructure.settings import Settings
from tests.bench import estimates
from tests.bench.estimated_jobs import Variant, kinds

ACCOUNT = DemoAccount(UUID(int=1), "key")


def test_there_are_twenty_kinds_whose_parents_run_before_them_in_the_same_half() -> None:
    wanted = kinds()
    assert len({each.name for each in wanted}) == len(wanted) == 20
    for half in (wanted[:10], wanted[10:]):
        before: set[str] = set()
        for each in half:
            Hyperparameters(**each.hyperparameters)
            assert each.continues is None or each.continues in before
            before.add(each.name)


def test_a_failed_job_does_not_end_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(*given: Any) -> estimates.Ran:
        variant, base = given[3], given[5]
        if variant.name == "fails":
            raise ClientError("no")
        return estimates.Ran(variant.name, variant.name, f"ft:{base}", (0.0, 0.0))

    monkeypatch.setattr(estimates, "fresh_account", lambda *_: ACCOUNT)
    monkeypatch.setattr(estimates, "top_up", lambda *_: None)
    monkeypatch.setattr(estimates, "offer_base", lambda *_: None)
    monkeypatch.setattr(estimates, "_run_job", run)
    wanted = [
        Variant(1, 1, {}, "parent"),
        Variant(1, 1, {}, "fails"),
        Variant(1, 1, {}, "child of a failed job", continues="fails"),
        Variant(1, 1, {}, "child", continues="parent"),
    ]
    with (tmp_path / "output").open("w") as output:
        _, ran = estimates._run_jobs(Settings(), Console(file=output), wanted)
    assert [each.variant for each in ran] == ["parent", "child"]
    assert ran[1].model == f"ft:{ran[0].model}"
