"""The speed probe: a figure for each dtype, from a process of its own."""

from __future__ import annotations

import platform

from domain.training.precision import Dtype
from services.scheduler.machine import measured, this_machine


async def test_the_probe_measures_the_speed_of_the_machine() -> None:
    machine = this_machine()
    assert (machine.host, machine.tflops) == (platform.node(), {})
    assert machine.cores >= 1
    found = await measured(machine)
    assert set(found.tflops) == set(Dtype)
    assert all(speed > 0 for speed in found.tflops.values())
    assert found.differs(machine)
    assert not machine.differs(found)
