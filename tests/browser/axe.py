"""axe-core, which finds what keeps people from using a page: contrast, labels, roles, order."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.conftest import CI

SOURCE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"

# Nothing is fetched: the policy of the pages would refuse what axe loads of styles elsewhere.
RUN = "() => axe.run(document, {preload: false, resultTypes: ['violations']})"


@cache
def source() -> str:
    """The script, as npm has it; without it the test is skipped, and fails in CI."""
    if not SOURCE.exists():
        reason = "axe-core is not there; `make test` installs it"
        if CI in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return SOURCE.read_text()


def violations(page: Page) -> list[str]:
    """What is wrong with a page as it is shown now, one line for each element.

    The script comes in by the debugging protocol, to which the page's own policy does not apply:
    it stays in force.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(f"() => {{ {source()}\n }}")
    found: dict[str, Any] = page.evaluate(RUN)
    return [
        f"{each['id']} ({each['impact']}): {each['help']}\n"
        f"    {node['html'][:160]}\n    {' '.join(node['failureSummary'].split())}"
        for each in found["violations"]
        for node in each["nodes"]
    ]
