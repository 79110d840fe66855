"""The use of a job's GPUs, with a fake of NVIDIA's management library."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from services.trainer.gpu_use import SAMPLE_SECONDS, GpuMeter, GpuUse

GIB = 1024**3
CUDA = torch.device("cuda:0")


@dataclass
class FakeNvml:
    """NVML for a machine with four GPUs. Each has its utilization in percent."""

    percent: list[int] = field(default_factory=lambda: [10, 90, 70, 0])
    failure: Exception | None = None
    calls: int = 0

    def module(self) -> Any:
        found: Any = ModuleType("pynvml")
        found.NVMLError_DriverNotLoaded = type("NVMLError_DriverNotLoaded", (Exception,), {})
        found.nvmlInit = lambda: None
        found.nvmlDeviceGetHandleByIndex = lambda index: index
        found.nvmlDeviceGetUtilizationRates = self._utilization
        found.nvmlDeviceGetMemoryInfo = lambda index: SimpleNamespace(used=(index + 1) * GIB)
        return found

    def _utilization(self, index: int) -> SimpleNamespace:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return SimpleNamespace(gpu=self.percent[index])


@dataclass
class Measured:
    """A meter of the GPUs 1 and 2, its clock and its log."""

    now: float = 0.0
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.meter = GpuMeter(CUDA, self.lines.append, lambda: self.now)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    module = fake.module()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(torch.cuda, "pynvml", module, raising=False)
    monkeypatch.setattr(torch.cuda, "_HAS_PYNVML", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    return fake


@pytest.fixture
def measured(nvml: FakeNvml) -> Measured:
    return Measured()


def test_the_use_is_that_of_the_visible_gpus(measured: Measured) -> None:
    assert measured.meter.use() == GpuUse(utilization=0.8, memory_bytes=5 * GIB)


def test_a_sample_is_taken_at_most_once_a_second(nvml: FakeNvml, measured: Measured) -> None:
    first = measured.meter.use()
    nvml.percent = [0, 0, 0, 0]
    assert measured.meter.use() == first
    measured.now += SAMPLE_SECONDS
    assert measured.meter.use() == GpuUse(utilization=0.0, memory_bytes=5 * GIB)


def test_after_a_failure_training_continues_without_samples(
    nvml: FakeNvml, measured: Measured
) -> None:
    nvml.failure = RuntimeError("Not Supported")
    for _ in range(3):
        assert measured.meter.use() is None
        measured.now += SAMPLE_SECONDS
    assert (nvml.calls, len(measured.lines)) == (1, 1)


def test_a_missing_library_is_a_failure(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "_HAS_PYNVML", False)
    monkeypatch.setattr(torch.cuda, "_PYNVML_ERR", None, raising=False)
    assert measured.meter.use() is None
    assert "nvidia-ml-py" in measured.lines[0]


def test_a_cpu_has_no_utilization(nvml: FakeNvml) -> None:
    lines: list[str] = []
    assert GpuMeter(torch.device("cpu"), lines.append).use() is None
    assert (nvml.calls, lines) == (0, [])
