"""Every page in each of its states, for checks, measurements and screenshots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page

from tests.browser.actions import (
    UPLOAD_URL,
    WIZARD,
    approve_changed_estimate,
    await_curve,
    await_examples,
    choose_all_fields,
    choose_every_option,
    choose_two_files,
    choose_two_jobs,
    compare_two_jobs,
    create_key,
    create_limited_key,
    create_webhook,
    end_session,
    enter_excessive_gpu_count,
    enter_invalid_dropout,
    enter_wrong_key,
    enter_wrong_public_key,
    enter_zero_amount,
    fail_uploads,
    fill_wizard,
    lose_connection,
    move_slider,
    open_budgets,
    open_hub,
    open_menu,
    press,
    press_undeploy_base,
    press_undeploy_checkpoint,
    preview_capacity,
    preview_old_price,
    preview_price,
    prove_growth,
    request_wrong_days,
    send_message,
    show_attempts,
    show_code,
    show_curve_table,
    view_account_of_ada,
)
from tests.browser.sample_platform import SamplePlatform
from tests.browser.tabs import Tabs
from tests.extension_modules import extension_modules


@dataclass(frozen=True)
class State:
    """A page of a person, with the action that brings it into the state."""

    name: str
    path: str
    """URL path, or a name in the sample's `paths`."""
    person: str | None = "ada"
    prepare: Callable[[Page], None] | None = None
    dark: bool = False
    """True for a dark screenshot, and `phone` for a narrow one."""
    phone: bool = False
    missing: bool = False
    """True if the page does not exist."""
    problem: str | None = None
    """Part of an expected message in the browser's console."""
    verifying: bool = False
    """True if the unfinished verification of the sample runs."""

    def open(self, tabs: Tabs, sample: SamplePlatform, **how: object) -> Page:
        """Open a tab in this state."""
        person = sample.people[self.person] if self.person else None
        self.allow(tabs, sample)
        page = tabs.open(person, self.path_in(sample), **how)  # type: ignore[arg-type]
        self.settle(page)
        return page

    def allow(self, tabs: Tabs, sample: SamplePlatform) -> None:
        """Allow the expected messages in the console, and let a verification run if needed."""
        sample.set_verifying(self.verifying)
        if self.missing:
            tabs.allowed.append(f"({tabs.url}{self.path_in(sample)})")
        if self.problem is not None:
            tabs.allowed.append(self.problem)

    def settle(self, page: Page) -> None:
        """Wait until the page has loaded, and perform the action."""
        page.wait_for_load_state("load")
        if self.prepare is not None:
            self.prepare(page)

    def path_in(self, sample: SamplePlatform) -> str:
        """Return the URL path."""
        if self.path.startswith("/"):
            return self.path
        name, _, rest = self.path.partition("?")
        return sample.paths[name] + (f"?{rest}" if rest else "")


GPU_TYPE = "/ops/catalog/gpu-types/l4"

STATES = (
    State("sign-in", "/sign-in", person=None, dark=True, phone=True),
    State("sign-in-refused", "/sign-in", person=None, prepare=enter_wrong_key),
    State("sign-in-link", "sign-in link", person=None, phone=True),
    State("sign-in-used-link", "/sign-in/used", person=None),
    State("no-such-page", "/nowhere", missing=True),
    State("no-such-job", f"/fine-tune/ftjob-{'0' * 32}", missing=True, dark=True, phone=True),
    State("menu", "/fine-tune", prepare=open_menu),
    State("datasets", "/datasets", dark=True, phone=True),
    State("datasets-none", "/datasets", person="newcomer"),
    State("datasets-from-hub", "/datasets", prepare=open_hub, dark=True, phone=True),
    State("datasets-chosen", "/datasets", prepare=choose_two_files, phone=True),
    State(
        "datasets-upload-failed",
        "/datasets",
        prepare=fail_uploads,
        dark=True,
        phone=True,
        problem=UPLOAD_URL,
    ),
    State("session-ended", "/datasets", prepare=end_session, dark=True, phone=True),
    State("dataset-ready", "dataset support-chats", prepare=await_examples, dark=True, phone=True),
    State("dataset-rejected", "dataset broken-export", dark=True, phone=True),
    State("dataset-columns", "columns support-chats", dark=True, phone=True),
    State("dataset-tools", "dataset agent-calls", person="mary", phone=True),
    State("datasets-untrainable", "/datasets", person="mary", phone=True),
    State("dataset-validating", "dataset all-tickets-2026"),
    State("dataset-delete", "dataset support-chats", prepare=press("Delete…")),
    State("wizard", "wizard", prepare=choose_all_fields, dark=True, phone=True),
    State("wizard-few-examples", "wizard few examples", prepare=choose_all_fields),
    State("wizard-advanced", "wizard mistaken", person="linus", prepare=enter_invalid_dropout),
    State("wizard-code", "wizard", prepare=show_code),
    State("wizard-no-balance", "wizard no balance", person="grace", prepare=choose_all_fields),
    State("wizard-nothing", "/fine-tune/new", person="newcomer"),
    State(
        "wizard-4-bit",
        WIZARD,
        person="mary",
        prepare=fill_wizard("#precision.is-warn", micro_batch_size="8"),
    ),
    State(
        "wizard-truncated",
        WIZARD,
        person="mary",
        prepare=fill_wizard("#truncation", max_sequence_length="128"),
        phone=True,
    ),
    State(
        "wizard-does-not-fit",
        WIZARD,
        person="mary",
        prepare=fill_wizard("#does-not-fit", micro_batch_size="256"),
    ),
    State(
        "wizard-waiting",
        WIZARD,
        person="mary",
        prepare=fill_wizard("#elsewhere", gpu_type="a100-40"),
        dark=True,
        phone=True,
    ),
    State("wizard-options", WIZARD, "mary", choose_every_option, dark=True, phone=True),
    State("wizard-changed", WIZARD, person="mary", prepare=approve_changed_estimate, phone=True),
    State("jobs", "/fine-tune", dark=True, phone=True),
    State("jobs-two-chosen", "/fine-tune", prepare=choose_two_jobs, phone=True),
    State("jobs-compared", "/fine-tune", prepare=compare_two_jobs, dark=True, phone=True),
    State("jobs-none", "/fine-tune", person="newcomer"),
    State("job-waiting", "waiting", prepare=await_curve),
    State("job-training", "training", prepare=await_curve, dark=True, phone=True),
    State("job-training-just-begun", "training-just-begun", prepare=await_curve),
    State("job-many-points", "many-points", prepare=await_curve),
    State("job-table", "training", prepare=show_curve_table, phone=True),
    State("job-pause", "training", prepare=press("Pause"), dark=True, phone=True),
    State("job-events", "registered", prepare=lambda page: page.click("a[href$='/events']")),
    State("job-evaluating", "evaluating", prepare=await_curve),
    State("job-registering", "registering", prepare=await_curve),
    State("job-registered", "registered", prepare=await_curve, dark=True, phone=True),
    State("job-registered-undeployed", "registered-undeployed", prepare=await_curve),
    State("job-paused-owner", "paused-owner", prepare=await_curve),
    State(
        "job-paused-balance", "paused-balance", "grace", prepare=await_curve, dark=True, phone=True
    ),
    State("job-paused-max-cost", "paused-max-cost", prepare=await_curve, dark=True, phone=True),
    State("job-max-cost", "paused-max-cost", prepare=press("Change maximum cost"), phone=True),
    State("job-paused-capacity", "paused-capacity", prepare=await_curve),
    State("job-tried-again", "tried-again", prepare=await_curve, dark=True, phone=True),
    State("job-failed", "failed", prepare=await_curve, dark=True, phone=True),
    State("job-cancelled", "cancelled", prepare=await_curve),
    State("job-promoted", "promoted", prepare=await_curve),
    State("job-deployment-failed", "deployment-failed", "vera", await_curve, dark=True, phone=True),
    State("job-failed-platform", "failed-platform", "iris", await_curve, dark=True, phone=True),
    State("job-pausing", "pausing", "iris", await_curve, dark=True, phone=True),
    State("job-cancelling", "cancelling", "iris", await_curve, dark=True, phone=True),
    State("jobs-ending", "/fine-tune", "iris"),
    State(
        "job-reconnecting",
        "deploying",
        "vera",
        lose_connection(1, "Reconnecting"),
        dark=True,
        phone=True,
    ),
    State("job-signed-out", "pausing", "iris", lose_connection(4401, "signed out"), phone=True),
    State("job-first-paint", "training"),
    State("job-many-points-first-paint", "many-points"),
    State("job-cancel", "training", prepare=press("Cancel"), dark=True, phone=True),
    State("job-resume", "paused-owner", prepare=press("Resume")),
    State("job-resume-refused", "paused-owner", prepare=enter_excessive_gpu_count, phone=True),
    State("billing", "/billing", dark=True, phone=True),
    State("billing-refused", "/billing", prepare=enter_zero_amount),
    State("billing-new", "/billing", person="newcomer"),
    State("billing-key-budget", "/billing", prepare=open_budgets, dark=True, phone=True),
    State("billing-empty", "/billing", person="grace"),
    State("billing-no-days", "/billing?first=2026-02-01&last=2026-01-01", person="newcomer"),
    State("invoices", "/billing/invoices", dark=True, phone=True),
    State("invoices-none", "/billing/invoices", person="newcomer", phone=True),
    State("invoices-refused", "/billing/invoices", "newcomer", request_wrong_days, phone=True),
    State("webhooks", "/webhooks", dark=True, phone=True),
    State("webhooks-none", "/webhooks", person="newcomer", phone=True),
    State("webhooks-created", "/webhooks", "vera", create_webhook, dark=True, phone=True),
    State("webhook", "webhook", prepare=show_attempts, dark=True, phone=True),
    State("webhook-failing", "webhook failing", dark=True, phone=True),
    State("webhook-delete", "webhook", prepare=press("Delete…")),
    State("job-templates", "/fine-tune/templates", dark=True, phone=True),
    State("job-templates-none", "/fine-tune/templates", person="newcomer", phone=True),
    State("job-templates-rename", "/fine-tune/templates", prepare=press("Rename…")),
    State("wizard-save-template", WIZARD, prepare=press("Save as template…"), phone=True),
    State("trackers", "/trackers", dark=True, phone=True),
    State("trackers-none", "/trackers", person="newcomer", phone=True),
    State("trackers-disconnect", "/trackers", prepare=press("Disconnect…")),
    State("notices", "/notices", dark=True, phone=True),
    State("notices-none", "/notices", person="newcomer", phone=True),
    State("notices-unconfirmed", "/notices", person="vera", dark=True, phone=True),
    State("notices-link", "notices link", person=None, dark=True, phone=True),
    State("models", "/models", dark=True, phone=True),
    State("models-none", "/models", person="newcomer"),
    State("models-deploying", "/models", person="vera", dark=True, phone=True),
    State("models-export", "/models", "vera", press("Export…"), dark=True, phone=True),
    State("models-push", "/models", "vera", press("Push to hub…"), dark=True, phone=True),
    State("models-operator", "/models", person="olga", dark=True, phone=True),
    State("models-operator-undeploy", "/models", "olga", press_undeploy_base),
    State("models-promote", "/models", prepare=press("Promote")),
    State("models-key-budget", "/models", "newcomer", open_budgets, dark=True, phone=True),
    State(
        "models-undeploy-checkpoint", "/models", person="vera", prepare=press_undeploy_checkpoint
    ),
    State("models-revoke", "/models", person="newcomer", prepare=press("Revoke")),
    State("models-new-key", "/models", person="vera", prepare=create_key, dark=True, phone=True),
    State("models-limited-key", "/models", "newcomer", create_limited_key, dark=True, phone=True),
    State("suspended", "/billing", "hedy", dark=True, phone=True),
    State("suspended-wizard", "/fine-tune/new", "hedy"),
    State("auditor", "/fine-tune", "rita", view_account_of_ada, dark=True, phone=True),
    State("playground", "/models/playground", dark=True, phone=True),
    State("ops", "/ops", "olga", dark=True, phone=True),
    State("ops-parked", "/ops/parked", "olga", dark=True, phone=True),
    State("ops-alerts", "/ops/alerts", "olga", dark=True, phone=True),
    State("ops-accounts", "/ops/accounts", "olga", dark=True, phone=True),
    State("ops-money", "/ops/money", "olga", dark=True, phone=True),
    State("ops-catalog", "/ops/catalog", "olga", dark=True, phone=True),
    State("ops-account", "ops account ada", "olga", dark=True, phone=True),
    State("ops-accounts-suspended", "/ops/accounts?suspended=true", "olga", phone=True),
    State("ops-account-suspended", "ops account hedy", "olga", dark=True, phone=True),
    State(
        "ops-account-suspend", "ops account ada", "olga", press("Suspend"), dark=True, phone=True
    ),
    State("ops-account-erase", "ops account hedy", "olga", press("Erase"), dark=True, phone=True),
    State("ops-account-new-key", "ops account vera", "olga", create_key, dark=True, phone=True),
    State(
        "ops-gpu-type", "/ops/catalog/gpu-types/l4", "olga", preview_price, dark=True, phone=True
    ),
    State("ops-gpu-type-conflict", "/ops/catalog/gpu-types/l4", "olga", preview_old_price),
    State("ops-gpu-type-new", "/ops/catalog/gpu-types", "olga", phone=True),
    State(
        "ops-region",
        "/ops/catalog/regions/eu-central",
        "olga",
        preview_capacity,
        phone=True,
    ),
    State("ops-base", "/ops/catalog/bases/llama-3.1-8b-instruct", "olga"),
    State("ops-estimates", "/ops/estimates", "olga", dark=True, phone=True),
    State("ops-what-if", "/ops/what-if?price.l4=1.00&price.h100=2.00", "olga", phone=True),
    State("ops-seals", "/ops/seals", "olga", prove_growth, dark=True, phone=True),
    State("ops-security", "/ops/security", "olga", phone=True),
    State("ops-checks", "/ops/checks", "olga", dark=True, phone=True),
    State("ops-trainer-log", "ops trainer log", "olga", dark=True, phone=True),
    State("audit", "/audit", "olga", dark=True, phone=True),
    State("audit-refused", "/audit?job=x&account=nobody&from=soon", "olga", phone=True),
    State("audit-invoices", "/audit/invoices", "olga", dark=True, phone=True),
    State("audit-event", "audit event", "olga", dark=True, phone=True),
    State("audit-event-unsealed", "audit event unsealed", "olga", phone=True),
    State("audit-job", "audit job", "olga", dark=True, phone=True),
    State("audit-job-moved", "audit job", "olga", prepare=move_slider, phone=True),
    State("audit-account", "audit account", "olga", dark=True, phone=True),
    State("audit-none", "/audit?account=olga&kind=Job", "olga"),
    State("audit-verification", "/audit/verification", "olga", dark=True, phone=True),
    State(
        "audit-verification-refused",
        "/audit/verification",
        "olga",
        enter_wrong_public_key,
        phone=True,
    ),
    State(
        "audit-verification-running",
        "verification unfinished",
        "olga",
        dark=True,
        phone=True,
        verifying=True,
    ),
    State("audit-verifications-running", "/audit/verification", "olga", verifying=True),
    State("audit-verification-matches", "verification matches", "olga", dark=True, phone=True),
    State("audit-verification-differs", "verification differs", "olga", dark=True, phone=True),
    State("audit-verification-stopped", "verification unfinished", "olga", phone=True),
    State("playground-answered", "/models/playground", "ada", send_message, dark=True, phone=True),
    *(state for each in extension_modules("states") for state in each.STATES),
)

FULL_JOBS = ("training", "registered", "failed", "many-points")
"""The fullest states of a job's page."""

PAGES = tuple(
    {
        each.path.partition("?")[0]: each
        for each in reversed(STATES)
        if each.path in FULL_JOBS or not (each.missing or each.name.startswith("job-"))
    }.values()
)
"""One state of each page."""
