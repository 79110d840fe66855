"""What a change of the catalog means for the jobs and deployments that exist."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from domain.capacity.availability import PoolLoad
from gateway.ops.catalog.differences import ELIGIBLE, PRICE
from gateway.ops.catalog.form import CatalogForm, Kind
from infrastructure.store import Connection
from projections.deployments import adapter_names_on
from projections.job_requests import open_requests

KEEP, KEEP_PRICE, KEEP_GPUS = "do not change", "keep the approved price", "keep their GPUs"
NO_GPUS = "pause, because they get no GPUs"


@dataclass(frozen=True)
class Effect:
    """A number of jobs or deployments, and what happens to them."""

    affected: str
    count: int
    text: str


@dataclass(frozen=True)
class Jobs:
    """Unfinished jobs that use an entry."""

    running: int
    queued: int
    paused: int

    def effects(self, running: str, queued: str, paused: str) -> list[Effect]:
        """Return the effects on the jobs of each state."""
        return [
            Effect("Running jobs", self.running, running),
            Effect("Queued jobs", self.queued, queued),
            Effect("Paused jobs", self.paused, paused),
        ]


def effects_of_entry(
    connection: Connection, form: CatalogForm, changed: Collection[str], jobs: Jobs
) -> list[Effect]:
    """Return the effects of a changed or withdrawn entry. `changed` are names of its fields."""
    match form.kind:
        case Kind.GPU_TYPE if PRICE in changed:
            requests = "get the price that is valid when their files are ready, on any GPU type"
            return [
                *jobs.effects(KEEP_PRICE, KEEP_PRICE, "get the new price when they resume"),
                Effect("Jobs whose files are not ready", len(open_requests(connection)), requests),
            ]
        case Kind.GPU_TYPE:
            return jobs.effects(KEEP, KEEP, "get an estimate with the new values when they resume")
        case Kind.GPU_TYPE_WITHDRAWAL | Kind.REGION_WITHDRAWAL:
            paused = "cannot resume without this entry"
            return jobs.effects(f"{KEEP_GPUS} and their price", NO_GPUS, paused)
        case Kind.BASE | Kind.BASE_WITHDRAWAL:
            adapters = len(adapter_names_on(connection, form.name))
            paused = _resuming(form) if form.kind is not Kind.BASE or ELIGIBLE in changed else KEEP
            return [
                *jobs.effects(KEEP, KEEP, paused),
                Effect("Adapters", adapters, "stay deployed"),
            ]
        case _:
            return jobs.effects(KEEP, KEEP, KEEP)


def _resuming(form: CatalogForm) -> str:
    if form.kind is Kind.BASE and form.eligible:
        return "can resume"
    return "cannot resume while fine-tuning is not allowed"


def effects_of_capacity(load: PoolLoad | None, count: int, jobs: Jobs) -> list[Effect]:
    """Return the effects of a new number of GPUs. `load` is None if no server has had such GPUs."""
    if count == 0:
        return jobs.effects(KEEP_GPUS, NO_GPUS, "cannot resume without GPUs")
    held = sum(each.count for each in load.running) if load else 0
    stuck = sum(each.count > count for each in load.queue) if load else 0
    queued = "start when GPUs are free"
    if held > count:
        queued = f"start when the running jobs use fewer than {count:,} GPUs, instead of {held:,}"
    too_large = f"need more than {count:,} GPUs, and pause"
    effects = jobs.effects(KEEP_GPUS, queued, f"can resume on at most {count:,} GPUs")
    return [*effects, Effect("Queued jobs that are too large", stuck, too_large)]
