"""Tabs of a real browser, signed in at a running stack, and all that went wrong in them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, WebError

TIMEOUT_SECONDS = 60.0
WIDTH, HEIGHT, PHONE_WIDTH = 1280, 800, 375

ABORTED = "net::ERR_ABORTED"
"""What becomes of a request whose page is left, and of a link that turns out to be a download."""

UNOPENED = "WebSocket is closed before the connection is established"
"""What becomes of a connection whose page is left before it stands: htmx closes it then."""

NO_GATEWAY = re.compile(
    r"net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|CONNECTION_CLOSED|EMPTY_RESPONSE"
    r"|SOCKET_NOT_CONNECTED|INCOMPLETE_CHUNKED_ENCODING)"
    r"|WebSocket connection to .* failed|htmx:ws:error"
)


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Let the browser go on until something that it is to do has been done."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


class Person(Protocol):
    """Who may be signed in."""

    def sign_in_link(self) -> str:
        """Where a browser is signed in, once."""
        ...


@dataclass
class Tabs:
    """Opens them, and remembers each console message, error, and request that failed."""

    browser: Browser
    url: str
    problems: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)
    allowed: list[str] = field(default_factory=lambda: [UNOPENED])
    """Parts of problems that are none; a test adds what it is about, such as the address of a page
    that is not there."""
    gateway_may_be_down: bool = False

    def open(
        self,
        person: Person | None = None,
        path: str | None = None,
        *,
        dark: bool = False,
        width: int = WIDTH,
    ) -> Page:
        """A tab of a browser of its own, which knows nothing of any other.

        `person` is signed in first, by a one-time link; without one nobody is. `path` is what
        is opened then; without one it is where the link leads. `page.context.new_page()` is a
        second tab.
        """
        context = self.browser.new_context(
            base_url=self.url,
            viewport={"width": width, "height": HEIGHT},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        context.set_default_timeout(TIMEOUT_SECONDS * 1000)
        self.contexts.append(context)
        self._watch(context)
        page = context.new_page()
        if person is not None:
            page.goto(person.sign_in_link())
            page.get_by_role("button", name="Sign in as").click()
            page.wait_for_url("**/fine-tune")
        if path is not None:
            page.goto(path)
        return page

    @contextmanager
    def gateway_down(self) -> Generator[None]:
        """While this lasts, the pages may find that nobody answers."""
        self.gateway_may_be_down = True
        yield
        self.flush()
        self.gateway_may_be_down = False

    def flush(self) -> None:
        """Have what the browser said until now arrive here."""
        for context in self.contexts:
            for page in context.pages:
                page.evaluate("0")

    def close(self) -> None:
        """Close all; raises AssertionError with everything that went wrong in any of them."""
        self.flush()
        for context in self.contexts:
            context.close()
        assert not self.problems, "in the browser:\n" + "\n".join(self.problems)

    def _watch(self, context: BrowserContext) -> None:
        # What the policy refuses is written into the console too.
        context.on("console", self._on_console)
        context.on("weberror", self._on_error)
        context.on("requestfailed", self._on_failure)

    def _on_console(self, message: ConsoleMessage) -> None:
        where = message.location
        self._add(f"console, {message.type}: {message.text} ({where.get('url')})")

    def _on_error(self, error: WebError) -> None:
        self._add(f"error: {error.error}")

    def _on_failure(self, request: Request) -> None:
        if request.failure != ABORTED:
            self._add(f"failed: {request.method} {request.url} {request.failure}")

    def _add(self, problem: str) -> None:
        if self.gateway_may_be_down and NO_GATEWAY.search(problem):
            return
        if not any(part in problem for part in self.allowed):
            self.problems.append(problem)
