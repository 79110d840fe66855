"""Estimates: whether a job fits, in which precision, its cost range, and its gates."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body

from domain.billing.account import Account
from domain.training.cautions import cautions
from gateway.backend import Backend, BackendOf
from gateway.catalog.availability import loads_now
from gateway.http.access import Caller, CallerOf
from gateway.http.errors import refusals
from gateway.http.read_your_writes import WAIT_SECONDS
from gateway.launch.job_form import JobFormRoute, JobRequest
from gateway.launch.placing import placed
from gateway.launch.schemas import (
    BalanceImpact,
    CapacityGate,
    EstimateAnswer,
    FitAnswer,
    QuoteAnswer,
)

RECOMMENDED_EXAMPLES = 1000

router = APIRouter(prefix="/estimates", tags=["jobs"], route_class=JobFormRoute)


@router.post("", responses=refusals(404, 409))
def estimate_job(
    wanted: Annotated[JobRequest, Body()], caller: CallerOf, backend: BackendOf
) -> QuoteAnswer:
    """Price the form of a job without approving it; nothing is stored.

    The gates are those of the approval, with the GPUs that are free by the log as it is now.
    """
    return price_job(wanted, caller, backend)


def price_job(
    wanted: JobRequest,
    caller: Caller,
    backend: Backend,
    *,
    patience_seconds: float = WAIT_SECONDS,
) -> QuoteAnswer:
    """The same, which waits only so long for the free GPUs to be those of the log as it is now."""
    loads = loads_now(backend, patience_seconds=patience_seconds)
    choices = placed(
        backend, caller.account_id, wanted.choices, wanted.region, wanted.gpu_type, loads
    )
    quote = backend.quoting.quote(caller.account_id, choices)
    suitable = {choices.gpu_type, *quote.alternatives}
    loads = [load for load in loads if load.gpu_type in suitable]
    balance = backend.log.load(Account, caller.account_id).balance_micros
    impact = BalanceImpact.of(balance, quote.estimate)
    capacity = CapacityGate.of(loads, choices, wanted.wait)
    return QuoteAnswer(
        region=choices.region,
        gpu_type=choices.gpu_type,
        fit=FitAnswer.of(quote.fit),
        estimate=EstimateAnswer.of(quote.estimate),
        balance=impact,
        capacity=capacity,
        approvable=impact.missing.micros == 0 and capacity.is_open,
        effective_batch=wanted.hyperparameters.examples_per_step(wanted.gpu_count),
        truncated_examples=quote.truncation.truncated,
        truncation_warning=quote.truncation.warning,
        cautions=cautions(wanted.hyperparameters),
        warnings=[*warnings_of(quote.truncation.examples), *quote.plan.warnings],
    )


def warnings_of(examples: int) -> list[str]:
    """What a user should know before approving a job on a dataset of so many examples."""
    if examples >= RECOMMENDED_EXAMPLES:
        return []
    return [
        f"The dataset has {examples:,} examples; {RECOMMENDED_EXAMPLES:,} or more are recommended."
    ]
