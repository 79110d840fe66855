"""Placement: the GPUs of a job whose owner left them open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from domain.capacity.availability import PoolLoad
from domain.catalog.display_names import DisplayNames
from domain.core.errors import DomainError, Invalid
from domain.jobs.choices import Choices
from domain.use_cases.quoting import Quoting


def cheapest(
    quoting: Quoting,
    account_id: UUID,
    balance_micros: int,
    choices: Choices,
    loads: Sequence[PoolLoad],
    region: str | None,
    gpu_type: str | None,
) -> Choices:
    """The choices with the region and GPU type where the job costs least, if it costs what it may.

    `region` and `gpu_type` are what its owner chose, None what is open. Of the places that the
    balance pays for, those where the job would begin at once are preferred to those with a queue;
    if it pays for none, it is the cheapest of all. Raises the DomainError that stands against the
    job if it fits nowhere.
    """
    chosen = [
        load
        for load in loads
        if load.capacity and region in (None, load.region) and gpu_type in (None, load.gpu_type)
    ]
    places = [load for load in chosen if load.capacity >= choices.gpu_count]
    found: list[tuple[tuple[bool, bool, int, int, str, str], Choices]] = []
    problems: list[DomainError] = []
    for load in places:
        there = replace(choices, region=load.region, gpu_type=load.gpu_type)
        try:
            priced = quoting.quote(account_id, there).estimate
        except DomainError as problem:
            problems.append(problem)
            continue
        short = priced.high_micros > balance_micros
        waits = load.free < choices.gpu_count and not short
        rank = (short, waits, priced.high_micros, priced.high_seconds, load.region, load.gpu_type)
        found.append((rank, there))
    if found:
        return min(found, key=lambda each: each[0])[1]
    if problems:
        raise problems[0]
    raise _nowhere(chosen, region, gpu_type, quoting.display_names)


def _nowhere(
    chosen: Sequence[PoolLoad], region: str | None, gpu_type: str | None, names: DisplayNames
) -> Invalid:
    """Why no place is large enough: there is none of that kind, or none with so many GPUs."""
    place = names.region(region) if region else "any region"
    kind = names.gpu_type(gpu_type) if gpu_type else None
    if chosen:
        most = max(load.capacity for load in chosen)
        return Invalid(
            f"a job may use 1 to {most} of {kind or 'any GPU type'} in {place}", field="gpu_count"
        )
    return Invalid(
        f"there is no {kind or 'GPU'} in {place}; the catalog has what there is",
        field="gpu_type" if region is None or gpu_type is not None else "region",
    )
