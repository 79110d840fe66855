"""The GPUs of a form that leaves them open, by what is there and free now."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.billing.account import Account
from domain.capacity.availability import PoolLoad
from domain.jobs.choices import Choices
from domain.use_cases.placement import cheapest
from gateway.backend import Backend
from gateway.http.errors import NotYetVisible
from gateway.http.read_your_writes import caught_up
from projections import GPU_POOLS


def placed(
    backend: Backend,
    account_id: UUID,
    choices: Choices,
    region: str | None,
    gpu_type: str | None,
    loads: Sequence[PoolLoad],
) -> Choices:
    """The choices with what is None of region and GPU type where the job costs least.

    Raises the DomainError that stands against the job if it fits nowhere, and NotYetVisible while
    no GPU is known.
    """
    if region is not None and gpu_type is not None:
        return choices
    if not loads and not caught_up(backend, GPU_POOLS, patience_seconds=0):
        raise NotYetVisible
    balance_micros = backend.log.load(Account, account_id).balance_micros
    return cheapest(backend.quoting, account_id, balance_micros, choices, loads, region, gpu_type)
