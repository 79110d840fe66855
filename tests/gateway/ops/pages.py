"""Reading the pages for operators."""

from __future__ import annotations

import html
import re

from tests.gateway.web.signed_in import Browser


def shown(browser: Browser, path: str) -> str:
    """Return the text of a page."""
    answer = browser.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def row(page: str, attribute: str) -> str:
    """Return the text of the table row with an attribute, such as `data-lead="relay"`."""
    found = re.search(rf"<tr[^>]* {re.escape(attribute)}[^>]*>(.*?)</tr>", page, re.DOTALL)
    assert found is not None, attribute
    words = html.unescape(re.sub(r"<[^>]+>", " ", found[1]))
    return " ".join(words.replace("\N{NO-BREAK SPACE}", " ").split())
