"""GPU pools follow the catalog and the launcher."""

from __future__ import annotations

from typing import Any

import pytest

from domain.capacity.gpu_pool import GpuPool
from domain.catalog.catalog import Catalog
from domain.catalog.machine import Machine
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID, gpu_pool_id
from domain.training.precision import Dtype
from services.scheduler.capacity import (
    capacity_changes,
    measure_machine,
    offer_capacity,
    on_catalog_changed,
)
from tests.builders.commands import FixedClock, command


class CountingLauncher:
    """Has the declared capacity and counts the calls."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.asked = 0
        self.broken = False
        self.found: Machine | None = None

    def machine(self) -> Machine | None:
        """The machine that the test set."""
        return self.found

    def measure_machine(self) -> None:
        """One TFLOPS."""
        assert self.found is not None
        self.found = self.found.model_copy(update={"tflops": {Dtype.BF16: 1.0}})

    def capacity(self) -> dict[tuple[str, str], int]:
        """Every region's capacity, or nothing while broken."""
        self.asked += 1
        catalog = self._log.load(Catalog, CATALOG_ID)
        return {
            (region.name, gpu_type): count
            for region in catalog.regions.values()
            for gpu_type, count in region.capacity.items()
            if not self.broken
        }


@pytest.fixture
def launcher(log: EventLog) -> CountingLauncher:
    return CountingLauncher(log)


@pytest.fixture(autouse=True)
def _started(log: EventLog, launcher: CountingLauncher) -> None:
    offer_capacity(log, FixedClock(), launcher)  # type: ignore[arg-type]


def pools(log: EventLog) -> dict[str, int]:
    """Capacity of each pool that is open."""
    catalog = log.load(Catalog, CATALOG_ID)
    found = {
        f"{region}/{gpu_type}": log.find(GpuPool, gpu_pool_id(region, gpu_type))
        for region in catalog.known_regions
        for gpu_type in catalog.known_gpu_types
    }
    return {name: pool.capacity for name, pool in found.items() if pool is not None}


def change(log: EventLog, launcher: CountingLauncher, *changes: tuple[Any, ...]) -> None:
    """Change the catalog, and run the scheduler's handler on each event."""
    catalog = log.load(Catalog, CATALOG_ID)
    with command("change"):
        for name, *arguments in changes:
            getattr(catalog, name)(*arguments)
        events = list(catalog.pending_events)
        log.commit(catalog)
        for event in events:
            log.commit(*on_catalog_changed(log, launcher, event))  # type: ignore[arg-type]


def test_a_start_opens_pools_with_capacity(log: EventLog) -> None:
    assert pools(log) == {"local/cpu": 2, "local/cpu-small": 1}


def test_a_second_start_changes_nothing(log: EventLog, launcher: CountingLauncher) -> None:
    end = log.recorder.max_notification_id()
    offer_capacity(log, FixedClock(), launcher)  # type: ignore[arg-type]
    assert log.recorder.max_notification_id() == end


def test_pools_follow_the_declared_capacity(log: EventLog, launcher: CountingLauncher) -> None:
    change(log, launcher, ("declare_capacity", "local", "cpu", 5))
    change(log, launcher, ("declare_capacity", "local", "l4", 3))
    assert pools(log) == {"local/cpu": 5, "local/cpu-small": 1, "local/l4": 3}


def test_withdrawn_types_and_regions_have_no_capacity(
    log: EventLog, launcher: CountingLauncher
) -> None:
    change(log, launcher, ("declare_capacity", "local", "cpu", 0), ("withdraw_gpu_type", "cpu"))
    assert pools(log) == {"local/cpu": 0, "local/cpu-small": 1}
    change(log, launcher, ("withdraw_region", "local"))
    assert pools(log) == {"local/cpu": 0, "local/cpu-small": 0}


def test_a_machine_that_lost_its_gpus_offers_none(
    log: EventLog, launcher: CountingLauncher
) -> None:
    launcher.broken = True
    offer_capacity(log, FixedClock(), launcher)  # type: ignore[arg-type]
    assert pools(log) == {"local/cpu": 0, "local/cpu-small": 0}


def test_base_models_do_not_change_capacity(log: EventLog, launcher: CountingLauncher) -> None:
    asked = launcher.asked
    change(log, launcher, ("delist_base", "phi-4"))
    assert launcher.asked == asked
    with command("look"):
        assert capacity_changes(log, launcher) == []  # type: ignore[arg-type]


MACHINE = Machine(host="here", processor="test", cores=2, dtype=Dtype.BF16, tflops={})


def test_the_machine_is_recorded_once_with_the_cpu_pools(
    log: EventLog, launcher: CountingLauncher
) -> None:
    launcher.found = MACHINE
    offer_capacity(log, FixedClock(), launcher)  # type: ignore[arg-type]
    assert machine_of(log, "cpu") == machine_of(log, "cpu-small") == MACHINE
    measure_machine(log, FixedClock(), launcher)  # type: ignore[arg-type]
    fast = MACHINE.model_copy(update={"tflops": {Dtype.BF16: 1.0}})
    assert machine_of(log, "cpu") == fast
    launcher.found = fast.model_copy(update={"tflops": {Dtype.BF16: 1.1}})
    assert capacity_changes(log, launcher) == []  # type: ignore[arg-type]
    launcher.found = MACHINE
    assert capacity_changes(log, launcher) == []  # type: ignore[arg-type]
    launcher.found = MACHINE.model_copy(update={"dtype": Dtype.FLOAT32})
    offer_capacity(log, FixedClock(), launcher)  # type: ignore[arg-type]
    assert machine_of(log, "cpu") == launcher.found


def machine_of(log: EventLog, gpu_type: str) -> Machine | None:
    return log.load(GpuPool, gpu_pool_id("local", gpu_type)).machine
