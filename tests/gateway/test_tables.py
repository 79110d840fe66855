"""What the command line shows of a job's training."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType

from gateway.cli import job_progress, job_tables, tables


def text(drawn: RenderableType, columns: int = 160) -> str:
    console = Console(width=columns)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get()


def test_evaluations_are_rounded_as_people_read_them() -> None:
    measured: dict[str, Any] = {"step": 50, "eval_loss": 1.23456, "perplexity": 3.436867}
    measured |= {"accuracy": 0.5678, "examples": 64, "measured_at": "2026-11-25T12:00:00Z"}
    drawn = text(job_tables.evaluations({"data": [measured]}))
    for shown in ("1.2346", "3.437", "56.8%", "2026-11-25 12:00:00"):
        assert shown in drawn


def test_checkpoints_show_the_answer_that_they_have_and_which_is_the_best() -> None:
    saved: dict[str, Any] = {"step": 50, "segment": 1, "train_loss": 2.5, "eval_loss": None}
    saved |= {"total_bytes": 1000, "deployment": None, "sample": None, "best": False}
    told = saved | {"step": 100, "best": True, "sample": {"prompt": [], "answer": "Paris."}}
    drawn = text(job_tables.checkpoints({"data": [saved, told]}))
    assert (drawn.count("Paris."), drawn.count("yes")) == (1, 1)


def test_the_line_on_progress_has_the_last_held_out_loss() -> None:
    job: dict[str, Any] = {"status": "training", "phase": "training", "step": 60}
    job |= {"total_steps": 100, "steps_remaining": 40, "train_loss": 2.0, "eval_loss": None}
    job |= {"eval_step": None, "tokens_per_second": 500.0, "model": None, "error_class": None}
    job |= {"remaining_seconds": 95, "rate_per_hour": {"text": "$0.60"}}
    job |= {"cost": {"text": "$0.10"}, "balance": {"text": "$9.90"}}
    assert "held-out" not in job_progress.line(job)
    scored = job | {"eval_loss": 1.5, "eval_step": 50}
    told = "loss 2.0000 · held-out loss 1.5000 at step 50 · 500 tokens/s · about 1 min 35 s left"
    assert told in job_progress.line(scored)


def test_a_narrow_terminal_loses_columns_and_no_id() -> None:
    job: dict[str, Any] = {"id": f"ftjob-{'0' * 32}", "status": "training", "phase": "registering"}
    job |= {"cost": {"micros": 1, "text": "$0.10"}, "approved_at": "2026-11-25T12:00:00Z"}
    job |= {"base_model": "a-base-with-a-long-name", "model": None}
    job |= {"name": "support", "dataset": "chats.jsonl"}
    drawn = job_tables.jobs({"data": [job]})
    assert "a-base-with-a-long-name" in text(drawn)
    for columns in (80, 60, 20):
        narrow = text(drawn, columns)
        assert "a-base" not in narrow
        assert columns < 38 or job["id"] in narrow


def test_amounts_that_are_added_up_are_not_rounded() -> None:
    posting = {"posted_at": "2026-11-01T10:00:00", "debit": "customer:a", "credit": "revenue"}
    posting |= {"reason": "minute metered", "segment": 1, "minute": 1, "job_id": None}
    rows = [
        posting | {"amount": {"micros": micros, "text": "$0.01"}} for micros in (10_000, 12_345)
    ]
    drawn = text(tables.ledger({"data": rows}))
    assert "$0.010000" in drawn
    assert "$0.012345" in drawn


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert job_progress.sparkline([3.0, 2.0, 1.0], 10) == "█▅▁"
    assert job_progress.sparkline([1.0, 1.0], 10) == "▁▁"
    assert len(job_progress.sparkline(range(100), 32)) == 32
