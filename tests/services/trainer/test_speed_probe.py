"""The speed probe: a figure for each dtype, from a process of its own."""

from __future__ import annotations

import platform
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from domain.training.precision import Dtype
from services.scheduler.machine import measured, this_machine
from services.trainer import speed_probe


@pytest.mark.full
async def test_the_probe_measures_the_speed_of_the_machine() -> None:
    machine = this_machine()
    assert machine is not None
    assert (machine.host, machine.tflops) == (platform.node(), {})
    assert machine.cores >= 1
    found = await measured(machine)
    assert set(found.tflops) == set(Dtype)
    assert all(speed > 0 for speed in found.tflops.values())
    assert found.differs(machine)
    assert not machine.differs(found)


@pytest.mark.parametrize(("stops", "slower"), [((0, 0), 1), ((3, 3), 1), ((0, 5), 8)])
def test_other_load_does_not_count_but_a_quota_does(
    stops: tuple[int, int], slower: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product takes 1 ms of computing and 8 ms of elapsed time."""
    elapsed, computing, counts = count(0.0, 0.008), count(0.0, 0.001), iter(stops)
    clock = SimpleNamespace(perf_counter=lambda: next(elapsed), thread_time=lambda: next(computing))
    monkeypatch.setattr(speed_probe, "time", clock)
    monkeypatch.setattr(speed_probe, "stops_by_quota", lambda: next(counts))
    operations = 2 * speed_probe.ROWS * speed_probe.INPUTS * speed_probe.OUTPUTS
    found = speed_probe.measure(Dtype.FLOAT32, seconds=0.5)
    assert found == pytest.approx(operations / (0.001 * slower) / 1e12)


@pytest.mark.parametrize(
    ("own", "folder"),
    [
        ("0::/system.slice/ecolink.service", "system.slice/ecolink.service"),
        ("0::/", ""),
        ("4:cpu,cpuacct:/docker/1f", "cpu/docker/1f"),
        ("4:cpu,cpuacct:/not/visible", "cpu"),
    ],
)
def test_stops_by_a_quota_are_read_from_the_own_control_group(
    own: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "self").write_text(f"9:name=systemd:/other\n{own}\n")
    monkeypatch.setattr(speed_probe, "OWN_CGROUPS", tmp_path / "self")
    monkeypatch.setattr(speed_probe, "CGROUPS", tmp_path)
    assert speed_probe.stops_by_quota() == 0
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "cpu.stat").write_text("nr_periods 9\nnr_throttled 7\n")
    assert speed_probe.stops_by_quota() == 7
