"""The states of jobs, requests, datasets and deployments, and what moves them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from domain.datasets.dataset import DatasetStatus
from domain.deployments.deployment import DeploymentStatus
from domain.jobs.failures import FAILURES
from domain.jobs.job_request import RequestStatus
from domain.jobs.lifecycle import TABLE, JobStatus
from infrastructure.extensions import aggregates
from tests.docs import markdown
from tests.docs.markdown import code, text

Moves = tuple[tuple[str, str, str], ...]
"""From a state, by an event, to a state; the empty state is before the first event."""

JOB: Moves = (
    ("", "JobApproved", "training"),
    ("training", "EvaluationStarted", "evaluating"),
    ("evaluating", "EvaluationCompleted", "trained_pending_register"),
    ("trained_pending_register", "Registered", "registered"),
    ("trained_pending_register", "SegmentEnded", "evaluating"),
    ("evaluating", "TrainingStarted", "training"),
    ("training", "JobPaused", "paused"),
    ("evaluating", "JobPaused", "paused"),
    ("paused", "JobResumed", "training"),
    ("paused", "JobResumed", "evaluating"),
    ("training", "JobFailed", "failed"),
    ("evaluating", "JobFailed", "failed"),
    ("training", "JobCancelled", "cancelled"),
    ("evaluating", "JobCancelled", "cancelled"),
    ("paused", "JobCancelled", "cancelled"),
)
REQUEST: Moves = (
    ("", "JobRequested", "validating_files"),
    ("validating_files", "JobRequestApproved", "approved"),
    ("validating_files", "JobRequestRefused", "failed"),
    ("validating_files", "JobRequestCancelled", "cancelled"),
)
DATASET: Moves = (
    ("", "DatasetUploaded", "validating"),
    ("validating", "DatasetValidated", "ready_for_training"),
    ("validating", "DatasetRejected", "rejected"),
    ("validating", "DatasetDeleted", "deleted"),
    ("ready_for_training", "DatasetDeleted", "deleted"),
    ("rejected", "DatasetDeleted", "deleted"),
)
DEPLOYMENT: Moves = (
    ("", "DeploymentRequested", "deploying"),
    ("deploying", "DeploymentActivated", "active"),
    ("deploying", "DeploymentFailed", "failed"),
    ("active", "DeploymentFailed", "failed"),
    ("failed", "DeploymentRenewed", "deploying"),
    ("active", "DeploymentRenewed", "deploying"),
    ("undeployed", "DeploymentRenewed", "deploying"),
    ("deploying", "Undeployed", "undeployed"),
    ("active", "Undeployed", "undeployed"),
    ("failed", "Undeployed", "undeployed"),
)


def page() -> str:
    """The states of each thing, the commands that a job accepts, and the failure classes."""
    return markdown.page(
        "States",
        "This page shows the states of a job, a job request, a dataset and a deployment. Arrows "
        "are named after the event that moves from one state to the next.",
        markdown.section(
            "Job",
            diagram(JobStatus, JOB),
            "A command, an empty balance (`deplete`) or a crash does the following in each state.",
            markdown.table(("state", "command", "effect", "details"), _commands()),
        ),
        markdown.section(
            "Failure classes",
            "A failed segment has one of these classes. The payer covers the time since the last "
            "checkpoint: `platform` means that EcoLink credits it.",
            markdown.table(("class", "payer", "retried", "meaning", "advice"), _failures()),
        ),
        markdown.section(
            "Job request",
            "A job that was created before its files were ready is a job request until it is "
            "approved.",
            diagram(RequestStatus, REQUEST),
        ),
        markdown.section("Dataset", diagram(DatasetStatus, DATASET)),
        markdown.section("Deployment", diagram(DeploymentStatus, DEPLOYMENT)),
    )


def _commands() -> Iterable[tuple[str, ...]]:
    for status, commands in TABLE.items():
        for command, rule in commands.items():
            yield code(status), command, rule.effect, text(rule.sentence)


def _failures() -> Iterable[tuple[str, ...]]:
    for kind, failure in FAILURES.items():
        retried = "yes" if failure.retried else "no"
        yield code(kind), failure.payer, retried, text(failure.sentence), text(failure.advice)


def diagram(states: type[StrEnum], moves: Moves) -> str:
    """A Mermaid diagram; raises ValueError for a state or an event that the code does not have."""
    known = {str(state) for state in states}
    if drawn := known ^ ({state for move in moves for state in move[::2]} - {""}):
        raise ValueError(f"{states.__name__}: drawn or declared, but not both: {sorted(drawn)}")
    events = {
        name for aggregate in aggregates() for owner in aggregate.__mro__ for name in vars(owner)
    }
    if unknown := {event for _, event, _ in moves} - events:
        raise ValueError(f"no aggregate declares {sorted(unknown)}")
    lines = [f"    {begin or '[*]'} --> {end}: {event}" for begin, event, end in moves]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])
