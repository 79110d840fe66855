"""GPU pools follow the catalog and the launcher."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from domain.capacity.gpu_pool import GpuPool
from domain.catalog.catalog import Catalog
from domain.catalog.machine import Machine
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID, gpu_pool_id
from domain.training.precision import Dtype
from services.scheduler.capacity import capacity_changes, measure_machine, offer_capacity
from tests.builders.commands import FixedClock, command
from tests.services.scheduler.conftest import FakeLauncher, Scheduler

MACHINE = Machine(host="here", processor="test", cores=2, dtype=Dtype.BF16, tflops={})


@pytest.fixture
def launcher(log: EventLog, scheduler: Scheduler) -> FakeLauncher:
    """A launcher with two kinds of CPU, for which the scheduler has opened pools."""
    scheduler.launcher.offered = {("local", "cpu"): 2, ("local", "cpu-small"): 1}
    offer_capacity(log, FixedClock(), scheduler.launcher)
    scheduler.catch_up()
    return scheduler.launcher


def pools(log: EventLog) -> dict[str, int]:
    """Return the capacity of each open pool."""
    catalog = log.load(Catalog, CATALOG_ID)
    found = {
        name: log.find(GpuPool, gpu_pool_id("local", name)) for name in catalog.known_gpu_types
    }
    return {name: pool.capacity for name, pool in found.items() if pool is not None}


def machine_of(log: EventLog, gpu_type: str) -> Machine | None:
    return log.load(GpuPool, gpu_pool_id("local", gpu_type)).machine


def change_catalog(scheduler: Scheduler, change: Callable[[Catalog], None]) -> None:
    """Change the catalog, and handle the events."""
    with command("change"):
        catalog = scheduler.log.load(Catalog, CATALOG_ID)
        change(catalog)
        scheduler.log.commit(catalog)
    scheduler.catch_up()


def withdraw_gpu_type(catalog: Catalog) -> None:
    catalog.declare_capacity("local", "cpu-small", 0)
    catalog.withdraw_gpu_type("cpu-small")


def test_a_start_opens_pools_with_capacity_once(log: EventLog, launcher: FakeLauncher) -> None:
    assert pools(log) == {"cpu": 2, "cpu-small": 1}
    end = log.recorder.max_notification_id()
    offer_capacity(log, FixedClock(), launcher)
    assert log.recorder.max_notification_id() == end


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog: catalog.declare_capacity("local", "l4", 3),
        withdraw_gpu_type,
        lambda catalog: catalog.withdraw_region("local"),
    ],
    ids=["capacity", "type", "region"],
)
def test_pools_follow_the_launcher_when_the_catalog_changes(
    log: EventLog, scheduler: Scheduler, launcher: FakeLauncher, change: Callable[[Catalog], None]
) -> None:
    launcher.offered = {("local", "cpu"): 5, ("local", "l4"): 3}
    change_catalog(scheduler, change)
    assert pools(log) == {"cpu": 5, "cpu-small": 0, "l4": 3}


def test_a_machine_that_lost_its_gpus_offers_none(log: EventLog, launcher: FakeLauncher) -> None:
    launcher.offered = {}
    offer_capacity(log, FixedClock(), launcher)
    assert pools(log) == {"cpu": 0, "cpu-small": 0}


def test_the_capacity_stays_while_the_launcher_is_unavailable(
    log: EventLog, scheduler: Scheduler, launcher: FakeLauncher
) -> None:
    launcher.away, launcher.offered = True, {}
    change_catalog(scheduler, lambda catalog: catalog.declare_capacity("local", "l4", 3))
    assert pools(log) == {"cpu": 2, "cpu-small": 1}
    launcher.away = False
    offer_capacity(log, FixedClock(), launcher)
    assert pools(log) == {"cpu": 0, "cpu-small": 0}


def test_the_launcher_knows_the_present_capacity(log: EventLog, launcher: FakeLauncher) -> None:
    offer_capacity(log, FixedClock(), launcher)
    assert launcher.known == launcher.offered


def test_base_models_do_not_change_capacity(
    log: EventLog, scheduler: Scheduler, launcher: FakeLauncher
) -> None:
    launcher.offered = {}
    change_catalog(scheduler, lambda catalog: catalog.delist_base("phi-4"))
    assert pools(log) == {"cpu": 2, "cpu-small": 1}


async def test_the_machine_is_recorded_with_the_cpu_pools(
    log: EventLog, launcher: FakeLauncher
) -> None:
    launcher.machine_found = MACHINE
    offer_capacity(log, FixedClock(), launcher)
    assert machine_of(log, "cpu") == machine_of(log, "cpu-small") == MACHINE
    await measure_machine(log, FixedClock(), launcher)
    fast = MACHINE.model_copy(update={"tflops": {Dtype.BF16: 1.0}})
    assert machine_of(log, "cpu") == fast
    for unchanged in (fast.model_copy(update={"tflops": {Dtype.BF16: 1.1}}), MACHINE):
        launcher.machine_found = unchanged
        assert capacity_changes(log, launcher) == []
    launcher.machine_found = MACHINE.model_copy(update={"dtype": Dtype.FLOAT32})
    offer_capacity(log, FixedClock(), launcher)
    assert machine_of(log, "cpu") == launcher.machine_found
