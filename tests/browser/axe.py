"""axe-core, which finds accessibility problems: contrast, labels, roles, order."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.conftest import CI

SOURCE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"

# No preload: the content security policy blocks the style sheets that axe would fetch.
RUN = "() => axe.run(document, {preload: false, resultTypes: ['violations']})"


@cache
def source() -> str:
    """Return the script from npm. Without it, skip the test, or fail it in CI."""
    if not SOURCE.exists():
        reason = "axe-core is missing. `make test` installs it."
        if CI in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return SOURCE.read_text()


def violations(page: Page) -> list[str]:
    """Return the problems of the page as shown now, one for each element.

    The debugging protocol injects the script, so the page's content security policy stays active.
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
