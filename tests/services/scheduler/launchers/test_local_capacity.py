"""Capacity of the local launcher: NVIDIA GPUs, or CPU-backed types."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from domain.catalog.catalog import Catalog
from infrastructure.settings import Settings
from services.scheduler.launchers.launcher import LauncherUnavailable
from services.scheduler.launchers.local import LocalLauncher
from tests.builders.commands import FixedClock, command
from tests.services.scheduler.launchers.conftest import FakeNvidiaSmi
from tests.services.scheduler.launchers.test_launcher import shipped_catalog

CPU_BACKED = {("local", "cpu"): 2, ("local", "cpu-small"): 1}
LISTING = "0, NVIDIA L4\n1, NVIDIA H100 80GB HBM3\n2, NVIDIA L4\n"


@pytest.fixture
def catalog() -> Catalog:
    return shipped_catalog()


@pytest.fixture
def launcher(tmp_path: Path, catalog: Catalog) -> LocalLauncher:
    return LocalLauncher(Settings(home=tmp_path), FixedClock(), lambda: catalog)


def test_a_machine_with_gpus_offers_them_and_no_cpu(
    nvidia_smi: FakeNvidiaSmi, launcher: LocalLauncher
) -> None:
    nvidia_smi.answers(LISTING)
    for _ in range(2):
        assert launcher.capacity({}) == {("local", "l4"): 2, ("local", "h100"): 1}
    assert nvidia_smi.calls.read_text() == "--query-gpu=index,name --format=csv,noheader\n"


@pytest.mark.parametrize(
    ("listing", "exit_code"),
    [
        ("", 0),
        ("0, NVIDIA L4\n", 9),
        ("No devices were found\n", 0),
        ("Failed to initialize NVML: Driver/library mismatch\n", 18),
    ],
)
def test_a_failing_or_empty_driver_counts_as_none_until_it_lists_gpus(
    nvidia_smi: FakeNvidiaSmi, launcher: LocalLauncher, listing: str, exit_code: int
) -> None:
    nvidia_smi.answers(listing, exit_code)
    for _ in range(2):
        assert launcher.capacity(CPU_BACKED) == CPU_BACKED
    nvidia_smi.answers(LISTING)
    assert launcher.capacity(CPU_BACKED) == {("local", "l4"): 2, ("local", "h100"): 1}


def test_a_failing_driver_does_not_remove_known_gpus(
    nvidia_smi: FakeNvidiaSmi, tmp_path: Path, catalog: Catalog
) -> None:
    known = {("local", "l4"): 2, ("local", "h100"): 1, ("local", "cpu"): 0}
    launcher = LocalLauncher(Settings(home=tmp_path), FixedClock(), lambda: catalog)
    nvidia_smi.answers(LISTING, 9)
    for _ in range(2):
        with pytest.raises(LauncherUnavailable):
            launcher.capacity(known)
    nvidia_smi.answers(LISTING)
    assert launcher.capacity(known) == {("local", "l4"): 2, ("local", "h100"): 1}


@pytest.mark.parametrize(
    ("serving_device", "gpus"),
    [
        ("cpu", {("local", "l4"): 2, ("local", "h100"): 1}),
        ("cuda", {("local", "l4"): 1, ("local", "h100"): 1}),
        ("cuda:1", {("local", "l4"): 2}),
    ],
)
def test_the_serving_gpu_is_not_used_for_training(
    nvidia_smi: FakeNvidiaSmi, tmp_path: Path, serving_device: str, gpus: dict[object, int]
) -> None:
    nvidia_smi.answers(LISTING)
    settings = Settings(home=tmp_path, serving_device=serving_device)
    assert LocalLauncher(settings, FixedClock(), shipped_catalog).capacity({}) == gpus


def test_an_unknown_device_is_logged_once(
    nvidia_smi: FakeNvidiaSmi,
    launcher: LocalLauncher,
    catalog: Catalog,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nvidia_smi.answers("0, NVIDIA GeForce RTX 3060\n1, NVIDIA GeForce RTX 3060\n")
    with caplog.at_level(logging.WARNING):
        assert launcher.capacity({}) == CPU_BACKED
        assert launcher.capacity({}) == CPU_BACKED
    (warning,) = caplog.records
    name = "NVIDIA GeForce RTX 3060"
    assert warning.args == (2, name, name)
    with command():
        names = ("NVIDIA L4", name)
        l4 = catalog.gpu_type("l4").model_copy(update={"device_names": names})
        catalog.offer_gpu_type(l4)
    assert launcher.capacity({}) == {("local", "l4"): 2}


def test_a_declared_capacity_limits_the_gpus(
    nvidia_smi: FakeNvidiaSmi, launcher: LocalLauncher, catalog: Catalog
) -> None:
    nvidia_smi.answers(LISTING)
    with command():
        catalog.declare_capacity("local", "l4", 1)
        catalog.declare_capacity("local", "h100", 4)
        catalog.declare_capacity("local", "a100-80", 8)
    assert launcher.capacity({}) == {("local", "l4"): 1, ("local", "h100"): 1}


def test_the_capacity_of_the_cpu_follows_the_catalog(
    launcher: LocalLauncher, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with command():
        catalog.declare_capacity("local", "cpu", 7)
        catalog.declare_capacity("local", "l4", 8)
        catalog.declare_capacity("local", "cpu-small", 0)
    assert launcher.capacity({}) == {("local", "cpu"): 7, ("local", "cpu-small"): 0}
    with command():
        catalog.withdraw_region("local")
    assert launcher.capacity({}) == {}
