"""Quotes of jobs, and the choice of GPUs if the user omits them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from domain.billing.account import Account
from domain.capacity.availability import PoolLoad
from domain.core.errors import NotFound
from domain.jobs.choices import Choices
from domain.training.cautions import cautions, stopping_cautions
from domain.training.start import is_fine_tuned
from domain.training.training_plan import Order, TrainingPlan
from domain.use_cases.placement import cheapest
from domain.use_cases.spending_limits import CostRange, Outlook
from gateway.backend import Backend
from gateway.catalog.availability import loads_now
from gateway.http.access import Caller
from gateway.http.errors import NotYetVisible
from gateway.http.read_your_writes import WAIT_SECONDS, caught_up
from gateway.jobs.dataset_warnings import dataset_warnings
from gateway.jobs.launch.integrations import receiver
from gateway.jobs.launch.job_form import JobRequest
from gateway.jobs.launch.schemas import (
    BalanceImpact,
    BudgetNoticeResponse,
    CapacityGate,
    CostRangeResponse,
    FitResponse,
    JobEstimateResponse,
)
from gateway.jobs.price_note import price_note
from projections import GPU_POOLS

RECOMMENDED_EXAMPLES = 1000


def quote(
    backend: Backend, caller: Caller, form: JobRequest, *, patience_seconds: float = WAIT_SECONDS
) -> JobEstimateResponse:
    """Quote a job. Nothing is stored.

    `patience_seconds` is the maximum wait for the number of free GPUs to catch up with the log.
    Raise the DomainError that prevents the job.
    """
    receiver().require_connected(backend, caller, form.integrations)
    loads = loads_now(backend, patience_seconds=patience_seconds)
    choices = place(backend, caller.account_id, form.choices, form.order, loads)
    quoted = backend.quoting.quote(caller.account_id, choices)
    suitable = {choices.gpu_type, *quoted.alternatives}
    loads = [load for load in loads if load.gpu_type in suitable]
    balance = backend.log.load(Account, caller.account_id).balance_micros
    cost = CostRange.of(quoted.estimate, form.order.max_cost_micros)
    impact = BalanceImpact.of(balance, cost)
    today = backend.clock.now().date()
    notices = [
        BudgetNoticeResponse.of(each)
        for each in backend.spending_limits.notices(caller.account_id, caller.key_id, cost, today)
    ]
    budgets_permit = all(each.outlook is not Outlook.USED_UP for each in notices)
    capacity = CapacityGate.of(loads, choices, form.wait)
    about_datasets = dataset_warnings(
        backend, caller.account_id, choices.dataset_id, choices.validation_dataset_id
    )
    stopping = stopping_cautions(form.hyperparameters, quoted.estimate.total_steps)
    return JobEstimateResponse(
        region=choices.region,
        gpu_type=choices.gpu_type,
        fit=FitResponse.of(quoted.fit),
        estimate=CostRangeResponse.of(quoted.estimate),
        balance=impact,
        budgets=notices,
        capacity=capacity,
        price_note=price_note(quoted.estimate, cost, backend.settings.guarantee_factor),
        approvable=impact.missing.micros == 0 and budgets_permit and capacity.is_open,
        effective_batch=form.hyperparameters.examples_per_step(form.gpu_count),
        truncated_examples=quoted.plan.truncation.truncated,
        truncation_warning=quoted.plan.truncation.warning,
        cautions=[*cautions(form.hyperparameters), *stopping],
        dataset_warnings=about_datasets,
        warnings=[
            *about_datasets,
            *size_warnings(quoted.examples),
            *quoted.plan.warnings,
            *stopping,
            *(each.text for each in notices),
        ],
    )


def parent_of(backend: Backend, caller: Caller, name: str) -> TrainingPlan | None:
    """Return the plan of the job that made a model or checkpoint; None for any other name."""
    if not is_fine_tuned(name):
        return None
    with suppress(NotFound):
        return backend.quoting.parent(caller.account_id, name).plan
    return None


def size_warnings(examples: int) -> list[str]:
    """Return a warning if a dataset has fewer examples than recommended."""
    if examples >= RECOMMENDED_EXAMPLES:
        return []
    return [
        f"The dataset has {examples:,} {'example' if examples == 1 else 'examples'}; "
        f"{RECOMMENDED_EXAMPLES:,} or more are recommended."
    ]


def place(
    backend: Backend,
    account_id: UUID,
    choices: Choices,
    order: Order,
    loads: Sequence[PoolLoad] | None = None,
) -> Choices:
    """Return the choices, with the cheapest region and GPU type for those that are empty.

    `loads` are the current ones by default.
    """
    if choices.region and choices.gpu_type:
        return choices
    loads = loads_now(backend) if loads is None else loads
    if not loads and not caught_up(backend, GPU_POOLS, patience_seconds=0):
        raise NotYetVisible
    balance_micros = backend.log.load(Account, account_id).balance_micros
    quoting, most = backend.quoting, order.max_cost_micros
    return cheapest(quoting, account_id, balance_micros, choices, loads, most)
