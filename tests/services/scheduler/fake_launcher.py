"""A launcher in memory, whose pods a test controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from domain.catalog.machine import Machine
from domain.training.precision import Dtype
from infrastructure.reports import SegmentSpec
from services.scheduler.launchers.launcher import GpusBusy, LaunchFailed, Pod, PodName
from tests.builders.commands import NOW


class FakeLauncher:
    """Implements the Launcher port."""

    def __init__(self, capacity: int = 1) -> None:
        self.host: str | None = "here"
        self.refuses = False
        self.busy_for: set[PodName] = set()
        self.specs: dict[PodName, SegmentSpec] = {}
        self.started: list[PodName] = []
        self.stopped: list[PodName] = []
        self.killed: list[PodName] = []
        self.kept: bytes | None = None
        self.output = b"first line\nlast line\n"
        self.gpus = capacity
        self.machine_found: Machine | None = None
        self._pods: dict[PodName, Pod] = {}

    def capacity(self) -> Mapping[tuple[str, str], int]:
        """The capacity that the test set."""
        return {("local", "cpu"): self.gpus}

    def machine(self) -> Machine | None:
        """The machine that the test set."""
        return self.machine_found

    def measure_machine(self) -> None:
        """Measure 0.1 TFLOPS."""
        if self.machine_found is not None:
            self.machine_found = self.machine_found.model_copy(update={"tflops": {Dtype.BF16: 0.1}})

    def prepare(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to release."""

    def launch(self, spec: SegmentSpec) -> Pod:
        """A living pod, or the existing one."""
        if self.refuses:
            raise LaunchFailed("no machine answers")
        name = PodName(spec.job_id, spec.segment)
        if name in self.busy_for:
            raise GpusBusy("1 wanted, 0 of 1 free")
        if name not in self._pods:
            self.specs[name] = spec
            self.started.append(name)
            self._pods[name] = Pod(name, NOW, alive=True)
        return self._pods[name]

    def poll(self, name: PodName) -> Pod | None:
        """The pod, or None."""
        return self._pods.get(name)

    def stop(self, name: PodName) -> None:
        """Record the request."""
        self.stopped.append(name)

    def kill(self, name: PodName) -> None:
        """End the pod with SIGKILL."""
        self.killed.append(name)
        self.end(name, -9)

    def beat(self, name: PodName) -> None:
        """Change the pod's beat."""
        pod = self._pods[name]
        self._pods[name] = replace(pod, beat=(pod.beat or 0) + 1)

    def pods(self) -> list[PodName]:
        """All pods."""
        return sorted(self._pods)

    def log(self, name: PodName, max_bytes: int) -> bytes:
        """The output that the test set, until the pod is removed."""
        return self.output[-max_bytes:] if name in self._pods else b""

    def kept_report(self, name: PodName) -> bytes | None:
        """The report that the test set."""
        return self.kept

    def remove(self, name: PodName) -> None:
        """Remove the pod."""
        self._pods.pop(name, None)

    def end(self, name: PodName, exit_code: int | None = None) -> None:
        """End the pod, or lose it without an exit code."""
        self._pods[name] = replace(self._pods[name], alive=False, exit_code=exit_code)
