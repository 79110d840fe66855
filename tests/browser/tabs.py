"""Tabs of a real browser, and the errors in them."""

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
"""Failure of a request whose page is left, and of a link that becomes a download."""

UNOPENED = "WebSocket is closed before the connection is established"
"""Message of a WebSocket whose page is left before it is connected."""

NO_GATEWAY = re.compile(
    r"net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|CONNECTION_CLOSED|EMPTY_RESPONSE"
    r"|SOCKET_NOT_CONNECTED|INCOMPLETE_CHUNKED_ENCODING)"
    r"|WebSocket connection to .* failed|htmx:ws:error"
)


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Let the browser run until a condition holds."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


class Person(Protocol):
    """An account holder who can sign in."""

    def sign_in_link(self) -> str:
        """Return a one-time link that signs a browser in."""
        ...


@dataclass
class Tabs:
    """Opens tabs, and records console messages, errors and failed requests."""

    browser: Browser
    url: str
    problems: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)
    allowed: list[str] = field(default_factory=lambda: [UNOPENED])
    """Parts of expected problems. A test adds its own, such as the URL of a missing page."""
    gateway_may_be_down: bool = False

    def open(
        self,
        person: Person | None = None,
        path: str | None = None,
        *,
        dark: bool = False,
        width: int = WIDTH,
    ) -> Page:
        """Open a path in a new browser context, with its own cookies, and sign the person in first.

        Without a path, the tab shows the page after signing in.
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
        """Allow connection errors during the block."""
        self.gateway_may_be_down = True
        yield
        self.flush()
        self.gateway_may_be_down = False

    def flush(self) -> None:
        """Wait until all earlier messages of the browser have arrived."""
        for context in self.contexts:
            for page in context.pages:
                page.evaluate("0")

    def close(self) -> None:
        """Close all tabs. Raise AssertionError if there were problems in any of them."""
        self.flush()
        for context in self.contexts:
            context.close()
        assert not self.problems, "in the browser:\n" + "\n".join(self.problems)

    def _watch(self, context: BrowserContext) -> None:
        # The console also shows violations of the content security policy.
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
