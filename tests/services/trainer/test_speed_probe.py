"""The speed probe: a figure for each dtype, from a process of its own."""

from __future__ import annotations

import platform

from domain.training.precision import Dtype
from services.scheduler.machine import measured, this_machine


def test_the_machine_is_known_at_once_and_its_speed_after_the_probe() -> None:
    machine = this_machine()
    assert (machine.host, machine.tflops) == (platform.node(), {})
    assert machine.cores >= 1
    found = measured(machine)
    assert set(found.tflops) == set(Dtype)
    assert all(speed > 0 for speed in found.tflops.values())
    assert found.differs(machine)
    assert not machine.differs(found)
