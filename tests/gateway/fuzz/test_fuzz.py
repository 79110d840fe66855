"""Random requests cause no server error and no undocumented response."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.builders.platform import Platform
from tests.gateway.conftest import Gateway
from tests.gateway.fuzz.seeds import seed

HOOKS = Path(__file__).with_name("hooks.py")

CHECKS = (
    "no_failure",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)

THOROUGH = 1000
"""Number of requests from which every limit of every field is tried too."""


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_no_failure_and_no_undocumented_answer(
    gateway: Gateway, platform: Platform, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    wanted = int(pytestconfig.getoption("--fuzz-requests"))
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        seeds = seed(client, platform)
        paths = client.get("/api/openapi.json").json()["paths"]
    operations = sum(len(methods) for methods in paths.values())
    report, counts = tmp_path / "report.txt", tmp_path / "counts.json"
    with report.open("w") as out:
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run"),
                *(f"{gateway.url}/api/openapi.json", f"--max-examples={wanted // operations + 1}"),
                f"--phases=examples,fuzzing{',coverage' if wanted >= THOROUGH else ''}",
                *(f"--checks={','.join(CHECKS)}", "--continue-on-failure", "--warnings=off"),
                *("--seed=5", "--generation-database=none", "--generation-allow-x00=true"),
                *("--suppress-health-check=all", "--request-timeout=60", "--no-color"),
            ],
            env=os.environ
            | {
                "SCHEMATHESIS_HOOKS": str(HOOKS),
                "FUZZ_SEEDS": json.dumps(seeds),
                "FUZZ_COUNTS": str(counts),
            },
            cwd=tmp_path,  # schemathesis writes its findings here
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    assert run.returncode == 0, report.read_text()
    assert _told(json.loads(counts.read_text())) >= wanted


def _told(answers: dict[str, Any]) -> int:
    """Print the number of responses by kind. Return the number of requests."""
    statuses, succeeded, called = Counter[str](), set[str](), set[str]()
    for answer, count in answers.items():
        operation, _, status = answer.rpartition(" ")
        statuses[status] += count
        if status != "405":  # other methods are tried too
            called.add(operation)
        if status < "400":
            succeeded.add(operation)
    told = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    print(f"\n{statuses.total()} requests to {len(called)} operations: {told}")
    if missed := sorted(called - succeeded):
        print(f"None succeeded of {', '.join(missed)}.")
    return statuses.total()
