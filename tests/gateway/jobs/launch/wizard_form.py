"""The wizard's form as a browser fills it in and reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from infrastructure.postgres.store import connect
from infrastructure.training.drafts import draft_of
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.web.html import Node, read_html
from tests.gateway.web.signed_in import Browser

PATH = "/fine-tune/new"


@dataclass
class Wizard:
    """The page in use: its content and the user's changes."""

    browser: Browser
    platform: Platform
    dataset: UUID
    shown: Node = field(init=False)

    def open(self, query: str = "") -> Node:
        answer = self.browser.client.get(PATH + query)
        assert answer.status_code == 200
        self.shown = read_html(answer.text)["wizard"]
        return self.shown

    def change(self, **fields: Any) -> Node:
        """Fill in some fields, which saves the draft."""
        return self._estimate({}, self._next() | fields)

    def click(self, choice: str) -> Node:
        """Click a button that sets several fields."""
        return self._estimate({"choose": choice}, self._next())

    def _next(self) -> dict[str, str]:
        revision = self.shown.fields["revision"]
        assert isinstance(revision, str)
        return {"revision": str(int(revision) + 1)}

    def look(self, **fields: Any) -> Node:
        """Load the parts that the page polls."""
        return self._estimate({"keep": "false"}, fields)

    def _estimate(self, query: dict[str, str], fields: dict[str, Any]) -> Node:
        answer = self.browser.client.post(
            f"{PATH}/estimate",
            params=query,
            data=self.shown.fields | fields,
            headers=self.browser.htmx,
        )
        assert answer.status_code == 200, answer.text
        self.shown = read_html(answer.text)
        return self.shown

    def complete(self) -> Node:
        """Choose a value for each field without a default."""
        return self.change(dataset=str(self.dataset), base_model=BASE_MODEL)

    def approve(self, **fields: Any) -> UUID | None:
        """Approve and return the job, or None if the form is shown again."""
        leads_to = self.send(**fields)
        if not leads_to.startswith("/fine-tune/ftjob-"):
            self.shown = read_html(leads_to)
            return None
        return UUID(leads_to.removeprefix("/fine-tune/ftjob-"))

    def send(self, **fields: Any) -> str:
        """Approve and return the location, or the form that is shown."""
        form = self.shown.fields | fields
        answer = self.browser.client.post(PATH, data=form, headers=self.browser.htmx)
        assert answer.status_code == 200, answer.text
        return answer.headers.get("hx-redirect") or answer.text

    @property
    def button(self) -> Node:
        return self.shown["approve"]

    @property
    def is_clickable(self) -> bool:
        return "disabled" not in self.button.attributes

    def draft(self) -> dict[str, Any] | None:
        with connect(self.platform.settings) as connection:
            return draft_of(connection, self.browser.person.account_id)

    def find_draft(self) -> dict[str, Any]:
        draft = self.draft()
        assert draft is not None
        return draft

    def jobs(self) -> list[Any]:
        return self.browser.client.get("/api/jobs").json()["data"]


def problem(shown: Node, name: str) -> str:
    """Return the problem that the page shows beside a field."""
    control = shown[name].attributes
    assert control["aria-invalid"] == "true"
    assert f"{name}-problem" in control["aria-describedby"].split()
    return shown[f"{name}-problem"].text
