"""The output of a demo: live progress of a job, followed by summary tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from deploy.demo.autopause import Bill
from domain.core.money import charge_micros, dollars, exact_dollars
from domain.core.quantities import written_speed

PLAIN_LINE_SECONDS = 5.0


class Story:
    """A printer of timestamped job events and a progress line.

    On a terminal, it updates the progress line in place. Otherwise, it prints a line every few
    seconds.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = datetime.now(UTC)
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._printed_at = 0.0
        self._printed = ""

    def __enter__(self) -> Story:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, what: str, at: datetime | None = None) -> None:
        """Print a line with the time of day and the seconds since the start."""
        at = at or datetime.now(UTC)
        elapsed = (at - self._began).total_seconds()
        self.console.print(f"[dim]{at:%H:%M:%S} {elapsed:6.1f} s[/]  {what}", soft_wrap=True)

    def show(self, events: list[dict[str, Any]]) -> None:
        """Print the events of a job's timeline."""
        for event in events:
            self.say(escape(event["text"]), datetime.fromisoformat(event["happened_at"]))

    def progress(self, job: dict[str, Any], elapsed_seconds: float) -> None:
        """Update the progress line. Part of `elapsed_seconds` may not be billed yet."""
        if not job["total_steps"]:
            return
        line = _progress_line(job, elapsed_seconds)
        if self.console.is_terminal:
            self._live.update(Text("  " + line, style="cyan"), refresh=True)
        elif line != self._printed and time.monotonic() - self._printed_at > PLAIN_LINE_SECONDS:
            self._printed, self._printed_at = line, time.monotonic()
            self.console.print("  " + line, soft_wrap=True)


def _progress_line(job: dict[str, Any], elapsed_seconds: float) -> str:
    cost = max(
        job["cost"]["micros"],
        charge_micros(job["rate_per_hour"]["micros"], int(elapsed_seconds)),
    )
    unbilled = cost - job["cost"]["micros"]
    loss, speed = job["train_loss"], job["tokens_per_second"]
    return (
        f"step {job['step']}/{job['total_steps']}, {job['steps_remaining']} remaining"
        f"  train loss {'-' if loss is None else f'{loss:.3f}'}"
        f"  {'-' if speed is None else written_speed(speed)} tokens/s"
        f"  cost {dollars(cost)}"
        f"  balance {dollars(job['balance']['micros'] - unbilled)}"
    )


def result_table(job: dict[str, Any]) -> Table:
    """Return a table of the registered model and its held-out loss."""
    table = Table(title="Result", title_justify="left", show_header=False)
    table.add_row("model", f"[bold green]{job['model']}[/]")
    table.add_row("held-out loss before", f"{job['loss_before']:.4f} nats per token (base model)")
    table.add_row("held-out loss after", f"{job['loss_after']:.4f} nats per token (adapter)")
    table.add_row("examples", f"{job['train_examples']} trained, {job['eval_examples']} held out")
    table.add_row("billed", f"{job['billed_seconds']} s at {job['rate_per_hour']['text']} an hour")
    table.add_row("charged", exact_dollars(job["charged"]["micros"]))
    if job["credited"]["micros"]:
        table.add_row("credited back", exact_dollars(job["credited"]["micros"]))
    return table


def bills_table(bills: Sequence[Bill]) -> Table:
    """Return a table of the seconds and charges of jobs, with totals."""
    table = _table("Metered, grace and unpaid seconds", "job")
    for column in ("segments", "metered", "grace", "unpaid"):
        table.add_column(column, justify="right")
    for column in ("charged", "rate x\nmetered"):  # prevents truncation on a narrow terminal
        table.add_column(column, justify="right", no_wrap=True)
    for bill in bills:
        table.add_row(bill.job["id"][:14], str(bill.job["segment"]), *_sums([bill]))
    table.add_section()
    table.add_row("both", str(sum(bill.job["segment"] for bill in bills)), *_sums(bills))
    return table


def _sums(bills: Sequence[Bill]) -> tuple[str, ...]:
    return (
        f"{sum(bill.metered_seconds for bill in bills)}",
        f"{sum(bill.grace_seconds for bill in bills)}",
        f"{sum(bill.unpaid_seconds for bill in bills)}",
        exact_dollars(sum(bill.charged_micros for bill in bills)),
        exact_dollars(sum(bill.expected_micros for bill in bills)),
    )


def answers_table(prompt: str, answers: dict[str, str]) -> Table:
    """Return a table of the answers to a prompt from the base model and from the adapter."""
    table = _table(f"“{prompt}”")
    table.add_column("base model", ratio=1)
    table.add_column("fine-tuned model", ratio=1)
    table.add_row(escape(answers["base"]), escape(answers["adapter"]))
    return table


def ledger_table(postings: list[dict[str, Any]]) -> Table:
    """Return a table of all postings in order."""
    table = _table("Ledger", "time", "debit", "credit", "reason", "seconds")
    table.add_column("amount", justify="right")
    for posting in postings:
        begin, end = posting["from_seconds"], posting["to_seconds"]
        table.add_row(
            posting["posted_at"][11:19],
            _short(posting["debit"]),
            _short(posting["credit"]),
            posting["reason"],
            "" if end is None else f"{begin}-{end}",
            exact_dollars(posting["amount"]["micros"]),
        )
    return table


def trial_balance_table(balances: dict[str, int]) -> Table:
    """Return a table of the balances of all ledger accounts, with their sum."""
    table = _table("Trial balance", "account")
    table.add_column("credits - debits", justify="right")
    for account, micros in balances.items():
        table.add_row(_short(account), exact_dollars(micros))
    table.add_section()
    table.add_row("sum", f"[bold]{exact_dollars(sum(balances.values()))}[/]")
    return table


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left")


def _short(account: str) -> str:
    kind, _, owner = account.partition(":")
    return f"{kind}:{owner[:8]}" if owner else kind
