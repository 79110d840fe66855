"""The next release: a copy of the working tree with small changes, as real releases have them.

It has a new event that a command emits, a new version of an event that each job writes, another
fold and a new column of a read model, a new table, and a new field in the reports of trainers.
"""

from __future__ import annotations

from pathlib import Path

from domain.core.event_format import FORMAT
from tests.upgrade.releases import Edit, Release, edited

VERSION = "99.0.0"

NEW_EVENT = "BudgetNoted"
"""Topic of the new event. Setting a budget through a gateway of the next release causes it."""

CHANGED_EVENT = "TrainingStarted"
"""Topic of the event with a new version. Each job writes it."""

NEW_FIELD = "clock"
"""Field of the new version."""

NEW_COLUMN = "credits"
"""Column of `accounts` that only the next release has: the number of credits and payments."""

NEW_TABLE = "release_notes"

REPORT_FIELD = "gpu_celsius"
"""Field of the reports of the trainers of the next release."""

NEXT = FORMAT + 1

RAISED = (Edit("domain/core/event_format.py", f"\nFORMAT = {FORMAT}\n", f"\nFORMAT = {NEXT}\n"),)

EVENT = (
    Edit(
        "domain/billing/account.py",
        "    class BudgetRemoved(Event):\n",
        f'''    class {NEW_EVENT}(Event):
        """The account holder was reminded of a budget."""

        formats: ClassVar[dict[int, int]] = {{1: {NEXT}}}
        limit_micros: int

    class BudgetRemoved(Event):
''',
    ),
    Edit(
        "domain/billing/account.py",
        "                spent_micros=max(0, spent_micros),\n            )\n",
        f"""                spent_micros=max(0, spent_micros),
            )
            self.trigger_event(self.{NEW_EVENT}, limit_micros=limit_micros)

    @event({NEW_EVENT})
    def _budget_noted(self) -> None:
        pass
""",
    ),
    Edit(
        "deploy/database_roles.py",
        "            *(Account.BudgetSet, Account.BudgetRemoved),\n",
        f"            *(Account.BudgetSet, Account.{NEW_EVENT}, Account.BudgetRemoved),\n",
    ),
)

EVENT_VERSION = (
    Edit(
        "domain/jobs/events.py",
        """    total_steps: int
    train_examples: int
    eval_examples: int


class CheckpointSaved(""",
        f"""    total_steps: int
    train_examples: int
    eval_examples: int
    {NEW_FIELD}: str = "trainer"

    class_version: ClassVar[int] = 2
    formats: ClassVar[dict[int, int]] = {{2: {NEXT}}}

    @staticmethod
    def upcast_v1_v2(state: dict[str, object]) -> None:
        state["{NEW_FIELD}"] = "trainer"

    @staticmethod
    def downcast_v1_v2(state: dict[str, object]) -> None:
        del state["{NEW_FIELD}"]


class CheckpointSaved(""",
    ),
)

READ_MODEL = (
    Edit(
        "projections/accounts.py",
        "    erased boolean NOT NULL\n);",
        f"    erased boolean NOT NULL,\n    {NEW_COLUMN} integer NOT NULL DEFAULT 0\n);",
    ),
    Edit(
        "projections/accounts.py",
        '"UPDATE accounts SET balance_micros = balance_micros + %s, depleted = false "\n',
        '"UPDATE accounts SET balance_micros = balance_micros + %s, depleted = false, "\n'
        f'                "{NEW_COLUMN} = {NEW_COLUMN} + 1 "\n',
    ),
)

TABLE = (
    Edit(
        f"infrastructure/{NEW_TABLE}.py",
        "",
        f'DDL = "CREATE TABLE IF NOT EXISTS {NEW_TABLE} (version text PRIMARY KEY)"\n',
    ),
    Edit(
        "deploy/schema.py",
        "from infrastructure.accounts import ",
        f"from infrastructure import {NEW_TABLE}\nfrom infrastructure.accounts import ",
    ),
    Edit(
        "deploy/schema.py",
        "    profiles.DDL,\n",
        f"    profiles.DDL,\n    {NEW_TABLE}.DDL,\n",
    ),
    Edit(
        "deploy/database_roles.py",
        '        | _each(("leaderships", "processes"), READ),\n',
        f'        | _each(("leaderships", "processes", "{NEW_TABLE}"), READ),\n',
    ),
)

REPORT = (
    Edit(
        "infrastructure/training/reports.py",
        "    grace_seconds: Seconds = 0.0  # time beyond the paid seconds\n",
        "    grace_seconds: Seconds = 0.0  # time beyond the paid seconds\n"
        f"    {REPORT_FIELD}: float | None = None\n",
    ),
    Edit(
        "services/trainer/reporter.py",
        "elapsed_seconds=0.0, phase=phase)",
        f"elapsed_seconds=0.0, phase=phase, {REPORT_FIELD}=41.0)",
    ),
)

EDITS = (*RAISED, *EVENT, *EVENT_VERSION, *READ_MODEL, *TABLE, *REPORT)


def next_release(folder: Path) -> Release:
    """Make the next release in a new folder."""
    return edited(folder, EDITS, VERSION)
