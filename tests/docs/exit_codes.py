"""The exit codes of the command line."""

from __future__ import annotations

from http import HTTPStatus

from gateway.cli.exits import MEANINGS, STATUSES
from tests.docs import markdown
from tests.docs.markdown import text


def page() -> str:
    """Every exit code, and the statuses of the API that lead to it."""
    rows = [
        (
            f"{code:d}",
            text(meaning),
            ", ".join(
                f"{status:d} {HTTPStatus(status).phrase}"
                for status, outcome in STATUSES.items()
                if outcome is code
            ),
        )
        for code, meaning in MEANINGS.items()
    ]
    return markdown.page(
        "Exit codes",
        "Every account command of `ecolink` ends with one of these exit codes, for scripts. A "
        "response with an HTTP status in the last column leads to that code.",
        markdown.table(("code", "meaning", "HTTP status"), rows),
    )
