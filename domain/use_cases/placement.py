"""The region and GPU type of jobs that omit them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from domain.capacity.availability import PoolLoad
from domain.catalog.display_names import DisplayNames
from domain.core.errors import DomainError, Invalid, StillCounting
from domain.jobs.choices import Choices
from domain.use_cases.quoting import Quoting


def cheapest(
    quoting: Quoting,
    account_id: UUID,
    balance_micros: int,
    choices: Choices,
    loads: Sequence[PoolLoad],
    max_cost_micros: int | None = None,
) -> Choices:
    """Return the choices with the cheapest region and GPU type for those that are empty.

    Prefer GPUs that the balance can pay for and, among these, free ones. If the balance can pay for
    none, choose the cheapest. A maximum cost limits what the balance must pay for. Raise a
    DomainError if the job cannot run anywhere.
    """
    chosen = [
        load
        for load in loads
        if load.capacity
        and choices.region in ("", load.region)
        and choices.gpu_type in ("", load.gpu_type)
    ]
    places = [load for load in chosen if load.capacity >= choices.gpu_count]
    found: list[tuple[tuple[bool, bool, int, int, str, str], Choices]] = []
    problems: list[DomainError] = []
    for load in places:
        there = replace(choices, region=load.region, gpu_type=load.gpu_type)
        try:
            priced = quoting.quote(account_id, there).estimate
        except StillCounting:
            raise
        except DomainError as problem:
            problems.append(problem)
            continue
        high = priced.high_micros
        needed = high if max_cost_micros is None else min(high, max_cost_micros)
        short = needed > balance_micros
        waits = load.free < choices.gpu_count and not short
        rank = (short, waits, priced.high_micros, priced.high_seconds, load.region, load.gpu_type)
        found.append((rank, there))
    if found:
        return min(found, key=lambda each: each[0])[1]
    if problems:
        raise problems[0]
    raise _nowhere(chosen, choices, quoting.display_names)


def _nowhere(chosen: Sequence[PoolLoad], choices: Choices, names: DisplayNames) -> Invalid:
    place = names.region(choices.region) if choices.region else "any region"
    kind = names.gpu_type(choices.gpu_type) if choices.gpu_type else None
    if chosen:
        most = max(load.capacity for load in chosen)
        of_type = f" of type {kind}" if kind else ""
        return Invalid(
            f"A job cannot use {choices.gpu_count} GPUs{of_type} in {place}. Choose 1 to {most}.",
            field="gpu_count",
        )
    return Invalid(
        f"{place} has no {kind or 'GPUs'}. See the catalog for available GPUs.",
        field="gpu_type" if choices.gpu_type or not choices.region else "region",
    )
