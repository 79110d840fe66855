"""Capacity of the GPU pools, which follows the capacity that the launcher reports."""

from __future__ import annotations

import logging
from asyncio import to_thread
from collections.abc import Sequence
from itertools import product

from domain.capacity.gpu_pool import GpuPool
from domain.catalog.catalog import Catalog
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID, gpu_pool_id
from infrastructure.process.clock import Clock
from services.scheduler.launchers.launcher import Launcher, LauncherUnavailable


def capacity_changes(log: EventLog, launcher: Launcher) -> Sequence[GpuPool]:
    """Set the capacity of every pool to the launcher's. Return the changed pools, unsaved.

    The capacity of a withdrawn GPU type or region is 0. Running segments keep their GPUs. If the
    launcher is unavailable, change nothing; the scheduler updates the capacity again later.
    """
    catalog = log.load(Catalog, CATALOG_ID)
    places = list(product(sorted(catalog.known_regions), sorted(catalog.known_gpu_types)))
    pools = {place: log.find(GpuPool, gpu_pool_id(*place)) for place in places}
    known = {place: pool.capacity for place, pool in pools.items() if pool is not None}
    try:
        wanted, machine = launcher.capacity(known), launcher.machine()
    except LauncherUnavailable as error:
        logging.getLogger("launcher").warning("keeping the capacity of all pools: %s", error)
        return []
    on_cpu = {each.name for each in catalog.gpu_types.values() if each.backing == "cpu"}
    changed: list[GpuPool] = []
    for place, pool in pools.items():
        capacity = wanted.get(place, 0)
        if pool is None:
            if capacity == 0:
                continue
            pool = GpuPool.open(*place)
        pool.change_capacity(capacity)
        if capacity > 0 and machine is not None and place[1] in on_cpu:
            pool.measure(machine)
        if pool.pending_events:
            changed.append(pool)
    return changed


def offer_capacity(log: EventLog, clock: Clock, launcher: Launcher) -> None:
    """Update and save the pools, at start and then periodically: machines may join or leave."""

    def attempt() -> None:
        command_id = f"capacity:{clock.now().isoformat()}"
        with because(Cause("service:scheduler", command_id, clock.now())):
            log.commit(*capacity_changes(log, launcher))

    log.retrying(attempt)


async def measure_machine(log: EventLog, clock: Clock, launcher: Launcher) -> None:
    """Measure the speed of CPU-backed segments. Record it in their pools."""
    await launcher.measure_machine()
    await to_thread(offer_capacity, log, clock, launcher)
