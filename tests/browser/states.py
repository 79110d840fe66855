"""Every page in every state that it has: what is checked, measured and photographed of each.

A page of one's own is one line here, and a state on it one more; `paths` of the exhibition names
the pages of single datasets and jobs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page

from tests.browser.exhibition import Exhibition
from tests.browser.preparing import (
    NEW,
    UPLOADS,
    advanced,
    as_code,
    asked_to_pause,
    asked_to_undeploy,
    asked_to_undeploy_a_base,
    asks,
    changed,
    chosen_files,
    closed,
    compared,
    conversation,
    drawn,
    examples,
    failed_uploads,
    menu,
    new_key,
    priced,
    refused_amount,
    refused_count,
    session_ended,
    table,
    two_chosen,
    wizard,
    wrong_key,
)
from tests.browser.tabs import Tabs


@dataclass(frozen=True)
class State:
    """A page, whose it is, and what is done to it until it is in the state."""

    name: str
    path: str
    """Or the name of one of the exhibition's paths, if it is no path."""
    person: str | None = "ada"
    prepare: Callable[[Page], None] | None = None
    dark: bool = False
    """Whether it is photographed in dark, too; narrow it is for `phone`."""
    phone: bool = False
    missing: bool = False
    """Whether the page says that there is none."""
    problem: str | None = None
    """A part of what the console says, where the state is that something goes wrong."""

    def open(self, tabs: Tabs, exhibition: Exhibition, **how: object) -> Page:
        """A tab that shows it."""
        visitor = exhibition.people[self.person] if self.person else None
        self.allow(tabs, exhibition)
        page = tabs.open(visitor, self.path_in(exhibition), **how)  # type: ignore[arg-type]
        self.settle(page)
        return page

    def allow(self, tabs: Tabs, exhibition: Exhibition) -> None:
        """The console of a page that is not there says so, or that it may not be there yet."""
        if self.missing:
            tabs.allowed.append(f"({tabs.url}{self.path_in(exhibition)})")
        if self.problem is not None:
            tabs.allowed.append(self.problem)

    def settle(self, page: Page) -> None:
        """Wait until nothing is loading, and do what leads to the state."""
        page.wait_for_load_state("load")
        if self.prepare is not None:
            self.prepare(page)

    def path_in(self, exhibition: Exhibition) -> str:
        """Where it is."""
        if self.path.startswith("/"):
            return self.path
        name, _, rest = self.path.partition("?")
        return exhibition.paths[name] + (f"?{rest}" if rest else "")


STATES = (
    State("sign-in", "/sign-in", person=None, dark=True, phone=True),
    State("sign-in-refused", "/sign-in", person=None, prepare=wrong_key),
    State("sign-in-link", "sign-in link", person=None, phone=True),
    State("sign-in-used-link", "/sign-in/used", person=None),
    State("no-such-page", "/nowhere", missing=True),
    State("no-such-job", f"/fine-tune/ftjob-{'0' * 32}", missing=True, dark=True, phone=True),
    State("menu", "/fine-tune", prepare=menu),
    State("datasets", "/datasets", dark=True, phone=True),
    State("datasets-none", "/datasets", person="newcomer"),
    State("datasets-chosen", "/datasets", prepare=chosen_files, phone=True),
    State(
        "datasets-upload-failed",
        "/datasets",
        prepare=failed_uploads,
        dark=True,
        phone=True,
        problem=UPLOADS,
    ),
    State("session-ended", "/datasets", prepare=session_ended, dark=True, phone=True),
    State("dataset-ready", "dataset support-chats", prepare=examples, dark=True, phone=True),
    State("dataset-rejected", "dataset broken-export", dark=True, phone=True),
    State("dataset-tools", "dataset agent-calls", person="mary", phone=True),
    State("datasets-untrainable", "/datasets", person="mary", phone=True),
    State("dataset-validating", "dataset all-tickets-2026"),
    State("dataset-delete", "dataset support-chats", prepare=asks("Delete…")),
    State("wizard", "wizard", prepare=priced, dark=True, phone=True),
    State("wizard-few-examples", "wizard few examples", prepare=priced),
    State("wizard-advanced", "wizard mistaken", person="linus", prepare=advanced),
    State("wizard-code", "wizard", prepare=as_code),
    State("wizard-no-balance", "wizard no balance", person="grace", prepare=priced),
    State("wizard-nothing", "/fine-tune/new", person="newcomer"),
    State(
        "wizard-4-bit",
        NEW,
        person="mary",
        prepare=wizard("#precision.is-warn", micro_batch_size="8"),
    ),
    State(
        "wizard-truncated",
        NEW,
        person="mary",
        prepare=wizard("#truncation", max_sequence_length="128"),
        phone=True,
    ),
    State(
        "wizard-does-not-fit",
        NEW,
        person="mary",
        prepare=wizard("#does-not-fit", micro_batch_size="256"),
    ),
    State(
        "wizard-waiting",
        NEW,
        person="mary",
        prepare=wizard("#elsewhere", gpu_type="a100-40"),
        dark=True,
        phone=True,
    ),
    State("wizard-changed", NEW, person="mary", prepare=changed, phone=True),
    State("jobs", "/fine-tune", dark=True, phone=True),
    State("jobs-two-chosen", "/fine-tune", prepare=two_chosen, phone=True),
    State("jobs-compared", "/fine-tune", prepare=compared, dark=True, phone=True),
    State("jobs-none", "/fine-tune", person="newcomer"),
    State("job-waiting", "waiting", prepare=drawn),
    State("job-training", "training", prepare=drawn, dark=True, phone=True),
    State("job-training-just-begun", "training-just-begun", prepare=drawn),
    State("job-many-points", "many-points", prepare=drawn),
    State("job-table", "training", prepare=table, phone=True),
    State("job-pause", "training", prepare=asked_to_pause, dark=True, phone=True),
    State("job-events", "registered", prepare=lambda page: page.click("a[href$='/events']")),
    State("job-evaluating", "evaluating", prepare=drawn),
    State("job-registering", "registering", prepare=drawn),
    State("job-registered", "registered", prepare=drawn, dark=True, phone=True),
    State("job-registered-undeployed", "registered-undeployed", prepare=drawn),
    State("job-paused-owner", "paused-owner", prepare=drawn),
    State("job-paused-balance", "paused-balance", "grace", prepare=drawn, dark=True, phone=True),
    State("job-paused-capacity", "paused-capacity", prepare=drawn),
    State("job-tried-again", "tried-again", prepare=drawn, dark=True, phone=True),
    State("job-failed", "failed", prepare=drawn, dark=True, phone=True),
    State("job-cancelled", "cancelled", prepare=drawn),
    State("job-promoted", "promoted", prepare=drawn),
    State("job-deployment-failed", "deployment-failed", "vera", drawn, dark=True, phone=True),
    State("job-failed-platform", "failed-platform", "iris", drawn, dark=True, phone=True),
    State("job-pausing", "pausing", "iris", drawn, dark=True, phone=True),
    State("job-cancelling", "cancelling", "iris", drawn, dark=True, phone=True),
    State("jobs-ending", "/fine-tune", "iris"),
    State(
        "job-reconnecting", "deploying", "vera", closed(1, "Reconnecting"), dark=True, phone=True
    ),
    State("job-signed-out", "pausing", "iris", closed(4401, "signed out"), phone=True),
    State("job-first-paint", "training"),
    State("job-many-points-first-paint", "many-points"),
    State("job-cancel", "training", prepare=asks("Cancel"), dark=True, phone=True),
    State("job-resume", "paused-owner", prepare=asks("Resume")),
    State("job-resume-refused", "paused-owner", prepare=refused_count, phone=True),
    State("billing", "/billing", dark=True, phone=True),
    State("billing-refused", "/billing", prepare=refused_amount),
    State("billing-new", "/billing", person="newcomer"),
    State("billing-empty", "/billing", person="grace"),
    State("billing-no-days", "/billing?first=2026-02-01&last=2026-01-01", person="newcomer"),
    State("models", "/models", dark=True, phone=True),
    State("models-none", "/models", person="newcomer"),
    State("models-deploying", "/models", person="vera", dark=True, phone=True),
    State("models-operator", "/models", person="olga", dark=True, phone=True),
    State("models-operator-undeploy", "/models", "olga", asked_to_undeploy_a_base),
    State("models-promote", "/models", prepare=asks("Promote")),
    State("models-undeploy-checkpoint", "/models", person="vera", prepare=asked_to_undeploy),
    State("models-revoke", "/models", person="newcomer", prepare=asks("Revoke")),
    State("models-new-key", "/models", person="vera", prepare=new_key, dark=True, phone=True),
    State("playground", "/models/playground", dark=True, phone=True),
    State("playground-answered", "/models/playground", "ada", conversation, dark=True, phone=True),
)

FULL_JOBS = ("training", "registered", "failed", "many-points")
"""Of the many states of a job's page those in which most is on it."""

PAGES = tuple(
    {
        each.path.partition("?")[0]: each
        for each in reversed(STATES)
        if each.path in FULL_JOBS or not (each.missing or each.name.startswith("job-"))
    }.values()
)
"""One state of each page."""
