"""Tables of the command line."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from rich.console import Console, RenderableType

from domain.jobs.lifecycle import JobStatus
from gateway.cli import job_progress, job_tables
from gateway.cli.billing import listing_of_amounts
from gateway.jobs.schemas import (
    CheckpointResponse,
    Evaluation,
    JobDetail,
    ListedJob,
    SampleResponse,
)
from gateway.schemas import Listed, Money, job_name

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
JOB_ID = UUID(int=0)


def text(drawn: RenderableType, columns: int = 160) -> str:
    console = Console(width=columns)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get()


def test_evaluations_are_rounded() -> None:
    evaluation = Evaluation.model_construct(
        step=50,
        eval_loss=1.23456,
        perplexity=3.436867,
        accuracy=0.5678,
        examples=64,
        measured_at=NOON,
    )
    drawn = text(job_tables.evaluations(Listed(data=[evaluation])))
    for shown in ("1.2346", "3.437", "56.8%", "2026-11-25 12:00:00"):
        assert shown in drawn


def test_checkpoints_have_their_sample_answer_and_mark_the_best() -> None:
    saved: dict[str, Any] = {"step": 50, "segment": 1, "train_loss": 2.5, "eval_loss": None}
    saved |= {"total_bytes": 1000, "deployment": None, "sample": None, "best": False}
    best = saved | {"best": True, "sample": SampleResponse(prompt=[], answer="Paris.")}
    listed = [CheckpointResponse.model_construct(None, **each) for each in (saved, best)]
    drawn = text(job_tables.checkpoints(Listed(data=listed)))
    assert (drawn.count("Paris."), drawn.count("yes")) == (1, 1)


def test_the_progress_line_has_the_last_held_out_loss() -> None:
    job = JobDetail.model_construct(
        status=JobStatus.TRAINING,
        phase="training",
        step=60,
        total_steps=100,
        train_loss=2.0,
        eval_loss=None,
        tokens_per_second=500.0,
        remaining_seconds=95,
        rate_per_hour=Money.of(600_000),
        cost=Money.of(100_000),
        balance=Money.of(9_900_000),
        model=None,
        error_class=None,
    )
    assert "held-out" not in job_progress.line(job)
    scored = job.model_copy(update={"eval_loss": 1.5, "eval_step": 50})
    assert job_progress.line(scored).split(" · ")[1:6] == [
        "step 60/100",
        "train loss 2.0000",
        "held-out loss 1.5000 at step 50",
        "500 tokens/s",
        "about 1 min 35 s left",
    ]


def test_a_narrow_terminal_drops_columns_but_no_id() -> None:
    job = ListedJob.model_construct(
        id=JOB_ID,
        status=JobStatus.TRAINING,
        phase="registering",
        cost=Money.of(100_000),
        approved_at=NOON,
        base_model="a-base-with-a-long-name",
        model=None,
        name="support",
        dataset="chats.jsonl",
    )
    drawn = job_tables.jobs(Listed(data=[job]))
    assert "a-base-with-a-long-name" in text(drawn)
    for columns in (80, 60, 20):
        narrow = text(drawn, columns)
        assert "a-base" not in narrow
        assert columns < 38 or job_name(JOB_ID) in narrow


def test_only_an_amount_with_fractions_of_a_cent_has_more_decimals() -> None:
    amounts = [{"day": date(2026, 11, 1), "amount": Money.of(each)} for each in (10_000, 12_345)]
    drawn = text(listing_of_amounts(amounts, empty=""))
    assert "$0.01\n" in drawn
    assert "$0.012345\n" in drawn


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert job_progress.sparkline([3.0, 2.0, 1.0], 10) == "█▅▁"
    assert job_progress.sparkline([1.0, 1.0], 10) == "▁▁"
    assert len(job_progress.sparkline(range(100), 32)) == 32
