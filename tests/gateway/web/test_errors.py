"""Problems in a browser: a page, or a notice on the current page."""

from __future__ import annotations

import pytest
from fastapi import Request

from gateway.http.errors import Problem
from gateway.web.errors import answer
from gateway.web.rendering import sentence
from tests.gateway.web.html import read_html
from tests.gateway.web.signed_in import Browser


def asked(path: str, query: bytes = b"", **headers: str) -> Request:
    """Return a browser's request."""
    named = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query}
    return Request(scope | {"headers": named, "server": ("testserver", 80), "scheme": "http"})


@pytest.mark.parametrize(("status", "swap"), [(409, "innerHTML"), (503, "innerMorph")])
def test_a_temporary_problem_is_announced_once(status: int, swap: str) -> None:
    problem = Problem(code="x", message="it is not so now; try again")
    notice = answer(asked("/billing/now", hx_request="true"), status, problem, {})
    assert (notice.status_code, notice.headers["hx-retarget"]) == (200, "#notices")
    assert notice.headers["hx-reswap"] == swap
    (element,) = [each for each in read_html(bytes(notice.body).decode()).all() if each.tag == "p"]
    assert element.text == "It is not so now; try again."
    assert (b"data-passing" in notice.body) == (status == 503)


def test_a_page_that_is_not_yet_visible_reloads() -> None:
    problem = Problem(code="not_yet_visible", message="EcoLink is still writing this down")
    page = answer(asked("/fine-tune/ftjob-1", b"a=1&b=2"), 503, problem, {"retry-after": "1"})
    assert (page.headers["refresh"], page.headers["retry-after"]) == ("2", "1")
    (link,) = [
        each.attributes["href"]
        for each in read_html(bytes(page.body).decode())["main"].all()
        if each.text == "Try again" and each.tag == "a"
    ]
    assert link == "/fine-tune/ftjob-1?a=1&b=2"
    assert "refresh" not in answer(asked("/nowhere"), 404, problem, {}).headers


def test_error_pages_keep_the_layout_of_a_signed_in_user(browser: Browser) -> None:
    for path, status in (
        ("/nowhere", 404),
        ("/fine-tune/ftjob-" + "0" * 32, 404),
        ("/billing?kind=x", 422),
    ):
        page = browser.client.get(path)
        assert page.status_code == status
        assert 'aria-label="Sections"' in page.text
        assert browser.csrf_token in page.text
    browser.client.cookies.clear()
    assert 'aria-label="Sections"' not in browser.client.get("/nowhere").text


@pytest.mark.parametrize(
    ("message", "written"),
    [
        ("no such job", "No such job."),
        ("top up first.", "Top up first."),
        ("llama-3.1-8b could not be deployed", "llama-3.1-8b could not be deployed."),
        ("ftjob-1 is over", "ftjob-1 is over."),
    ],
)
def test_a_message_is_shown_as_a_sentence(message: str, written: str) -> None:
    assert sentence(message) == written
