"""The local launcher: trainers are processes whose parents, the shims, outlive the scheduler."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import psutil

from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import GpuType
from domain.catalog.machine import Machine
from infrastructure.process.clock import Clock
from infrastructure.process.liveness import kill_groups, living
from infrastructure.settings import Settings
from infrastructure.training.reports import SegmentSpec
from services.scheduler.launchers.launcher import (
    TRAINER,
    GpusBusy,
    LauncherUnavailable,
    LaunchFailed,
    Pod,
    PodName,
    ReadCatalog,
)
from services.scheduler.launchers.nvidia_smi import nvidia_devices
from services.scheduler.launchers.pod_folder import (
    EXIT,
    REQUEST,
    SPEC,
    beat,
    kept_report,
    log_tail,
    read,
    write,
    write_spec,
)
from services.scheduler.launchers.trainer_environment import trainer_environment
from services.scheduler.launchers.warm_pool import WarmPool, kill_group, start_shim
from services.scheduler.machine import ProbeFailed, measured, this_machine

REGION = "local"

PRIVATE = ("ECOLINK_", "OTEL_", "AWS_")
"""Prefixes of environment variables that a trainer does not inherit."""

FIRST_SECONDS = 3.0
"""Seconds that a first launch may take: it handles an event, and running trainers wait for others.

The scheduler repeats it in another thread, which waits longer.
"""

WARM_START_SECONDS = 2.0  # enough, because the shim is idle


class _Slow(GpusBusy):
    """A first launch took too long, and was ended."""


class LocalLauncher:
    """A launcher that has one directory per pod for its spec, process, log and exit code."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        catalog: ReadCatalog,
        program: Sequence[str] = TRAINER,
    ) -> None:
        self._settings = settings
        self._program = program
        self._clock = clock
        self._catalog = catalog
        self._warned: set[str] = set()  # device names and errors, to warn once for each
        self._gpu_types: dict[str, GpuType] = {}  # includes withdrawn types
        self._listed: dict[int, str] = {}  # names of the GPUs by index, once nvidia-smi has any
        self._launching = threading.Lock()  # two launches must not choose the same GPU
        self._slow: set[PodName] = set()  # pods whose first launch took too long
        self._machine = this_machine()
        self._root = settings.home.resolve() / "pods"
        self._root.mkdir(parents=True, exist_ok=True)
        identity = _identity(self._root.with_name("pods.identity"))
        self.host = f"{socket.gethostname()}/{identity}"
        warm = settings.home.resolve() / "warm"
        self._warm = WarmPool(warm, settings.warm_trainers, program, self._environment)

    def machine(self) -> Machine | None:
        """Return this machine. It has no speed until it is measured."""
        return self._machine

    async def measure_machine(self) -> None:
        """Measure the speed of this machine. If that fails, estimates use the catalog's speed."""
        if self._machine is None:
            return
        try:
            self._machine = await measured(self._machine)
        except ProbeFailed as failure:
            logging.getLogger("launcher").warning(
                "cannot measure the speed of this machine: %s", failure
            )

    def prepare(self) -> None:
        """Keep warm trainers ready, with the most recently trained base model."""
        pods = (self.poll(name) for name in self.pods())
        self._warm.prepare(idle=not any(pod is not None and pod.alive for pod in pods))

    def close(self) -> None:
        """End the idle warm trainers. Trainers that run segments continue."""
        self._warm.close()

    def capacity(self, known: Mapping[tuple[str, str], int]) -> Mapping[tuple[str, str], int]:
        """Return the NVIDIA GPUs of this machine. If it has none, return the CPU-backed types.

        A capacity that the catalog declares limits the number of GPUs. If nvidia-smi fails, the
        machine has none, unless it is known to have had some: then raise LauncherUnavailable.
        """
        catalog = self._read_catalog()
        region = catalog.regions.get(REGION)
        if region is None:
            return {}
        nvidia = {
            name: kind for name, kind in catalog.gpu_types.items() if kind.backing == "nvidia"
        }
        try:
            counted = {name: len(self._devices_of(kind)) for name, kind in nvidia.items()}
            self._warn_of_unknown_devices(catalog)
        except LauncherUnavailable as error:
            if any(known.get((REGION, name)) for name in nvidia):
                raise
            self._warn_once(str(error), "%s; using the CPU", error)
            counted = {}
        gpus = {
            (REGION, name): min(count, region.capacity.get(name, count))
            for name, count in counted.items()
            if count > 0
        }
        return gpus or {
            (REGION, name): count
            for name, count in region.capacity.items()
            if catalog.gpu_types[name].backing == "cpu"
        }

    def _read_catalog(self) -> Catalog:
        """Read the catalog and remember its GPU types. A segment may use a withdrawn type."""
        catalog = self._catalog()
        self._gpu_types |= catalog.gpu_types
        return catalog

    def _warn_of_unknown_devices(self, catalog: Catalog) -> None:
        known = {name for kind in catalog.gpu_types.values() for name in kind.device_names}
        for name, count in Counter(self._devices().values()).items():
            if name not in known:
                self._warn_once(
                    name,
                    "this machine has %d unused %s: no GPU type has this device name. Add it with "
                    "`ecolink catalog gpu-types set NAME --device-name '%s'`.",
                    count,
                    name,
                    name,
                )

    def _warn_once(self, key: str, text: str, *arguments: object) -> None:
        if key not in self._warned:
            self._warned.add(key)
            logging.getLogger("launcher").warning(text, *arguments)

    def _devices(self) -> dict[int, str]:
        """Return the GPUs for training by index, without the one that serves models."""
        served = self._settings.serving_gpu
        self._listed = self._listed or nvidia_devices()
        return {index: name for index, name in self._listed.items() if index != served}

    def _devices_of(self, kind: GpuType) -> list[int]:
        return [index for index, name in self._devices().items() if name in kind.device_names]

    def launch(self, spec: SegmentSpec) -> Pod:
        """Start the trainer under its shim, or return the existing pod of that name."""
        name = PodName(spec.job_id, spec.segment)
        if not self._launching.acquire(timeout=FIRST_SECONDS):
            raise GpusBusy("Another trainer is starting.")
        try:
            if not (self._directory(name) / "pod.json").exists():
                try:
                    self._start(name, spec)
                except LaunchFailed as failed:
                    logging.getLogger("launcher").error("cannot launch %s: %s", name, failed)
                    raise
        finally:
            self._launching.release()
        pod = self.poll(name)
        assert pod is not None
        return pod

    def _start(self, name: PodName, spec: SegmentSpec) -> None:
        directory = self._directory(name)
        shim: subprocess.Popen[bytes] | None = None
        try:
            devices = self._free_devices(spec)
            directory.mkdir(exist_ok=True)
            write_spec(directory, spec)
            bound_at = self._clock.now().isoformat()
            write(directory / REQUEST, json.dumps({"bound_at": bound_at, "devices": devices}))
            if not self._warm_start(directory, spec, devices):
                arguments = [str(directory), *self._program, str(directory / SPEC)]
                environment = self._environment() | _visible(devices)
                shim = start_shim(directory, arguments, environment, subprocess.DEVNULL)
                most = self._settings.launch_seconds
                seconds = most if name in self._slow else min(most, FIRST_SECONDS)
                if not _await_pod(directory, shim, seconds):
                    if seconds < most:
                        self._slow.add(name)
                        raise _Slow(f"A trainer did not start within {seconds:g} s.")
                    raise LaunchFailed(
                        f"The process of the trainer did not start within {seconds:g} s "
                        "(ECOLINK_LAUNCH_SECONDS)."
                    )
        except (_Slow, LaunchFailed, OSError) as error:
            # A late start would run unpaid and without the scheduler's knowledge.
            if shim is not None:
                kill_group(shim)
            shutil.rmtree(directory, ignore_errors=True)
            if isinstance(error, (_Slow, LaunchFailed, LauncherUnavailable)):
                raise
            raise LaunchFailed(f"Cannot start a process: {error}") from error

    def _warm_start(self, directory: Path, spec: SegmentSpec, devices: list[int]) -> bool:
        """Run the segment in a warm trainer. Return False if it needs a cold start."""
        warm = self._warm.take(spec, on_gpu=bool(devices))
        if warm is None:
            return False
        taken = warm.warm_start(directory, _visible(devices)) and _await_pod(
            directory, warm.shim, WARM_START_SECONDS
        )
        if not taken:
            # Kill it before another trainer starts, so that no segment runs twice.
            kill_group(warm.shim)
            (directory / "pod.json").unlink(missing_ok=True)
            logging.getLogger("launcher").warning(
                "a warm trainer did not take %s; starting a cold one: %s",
                directory.name,
                warm.tail(),
            )
        warm.delete()
        return taken

    def _free_devices(self, spec: SegmentSpec) -> list[int]:
        """Return the indices of the GPUs for a segment; empty for a CPU-backed type.

        Raise GpusBusy if other pods still use the GPUs, LauncherUnavailable if nvidia-smi fails,
        and LaunchFailed if the machine has too few GPUs.
        """
        self._read_catalog()
        kind = self._gpu_types.get(spec.gpu_type)
        if kind is None:
            raise LaunchFailed(
                f"The catalog has no GPU type {spec.gpu_type!r}. Add it with `ecolink "
                "catalog gpu-types set`."
            )
        if kind.backing == "cpu":
            return []
        mine = self._devices_of(kind)
        wanted = f"The segment needs {spec.gpu_count} GPUs of type {kind.name}"
        if len(mine) < spec.gpu_count:
            raise LaunchFailed(f"{wanted}, but this machine has {len(mine)}.")
        occupied = self._occupied()
        free = [index for index in mine if index not in occupied]
        if len(free) < spec.gpu_count:
            raise GpusBusy(f"{wanted}, but {len(free)} of {len(mine)} are free.")
        return free[: spec.gpu_count]

    def _occupied(self) -> set[int]:
        occupied: set[int] = set()
        for name in self.pods():
            pod, request = self.poll(name), read(self._directory(name) / REQUEST)
            if pod is not None and pod.alive and request is not None:
                occupied.update(request["devices"])
        return occupied

    def poll(self, name: PodName) -> Pod | None:
        """Read the directory of the pod and check whether its shim is alive."""
        directory = self._directory(name)
        request = read(directory / REQUEST)
        if request is None or read(directory / "pod.json") is None:
            return None
        bound_at = datetime.fromisoformat(request["bound_at"])
        ended = read(directory / EXIT)
        if ended is not None:
            return Pod(name, bound_at, alive=False, exit_code=ended["exit_code"])
        if self._shim(name) is not None:
            return Pod(name, bound_at, alive=True, beat=beat(directory))
        # The shim may have written exit.json between the two checks.
        ended = read(directory / EXIT) or {"exit_code": None}
        return Pod(name, bound_at, alive=False, exit_code=ended["exit_code"])

    def stop(self, name: PodName) -> None:
        """Send SIGTERM to the shim, which forwards it to the trainer."""
        if (process := self._shim(name)) is not None:
            with suppress(psutil.NoSuchProcess):
                process.terminate()

    def kill(self, name: PodName) -> None:
        """Kill the process group of the shim and the trainer. Wait for the shim to end."""
        if (process := self._shim(name)) is not None:
            kill_groups([process])

    def pods(self) -> list[PodName]:
        """Return the pods of all directories in which a shim has started."""
        return sorted(PodName.parse(path.parent.name) for path in self._root.glob("*/pod.json"))

    def log(self, name: PodName, max_bytes: int) -> bytes:
        """Return the end of the trainer's stdout and stderr."""
        return log_tail(self._directory(name), max_bytes)

    def kept_report(self, name: PodName) -> bytes | None:
        """Return the report that the trainer stored next to its spec."""
        return kept_report(self._directory(name))

    def remove(self, name: PodName) -> None:
        """Delete the directory of the pod."""
        self._slow.discard(name)
        shutil.rmtree(self._directory(name), ignore_errors=True)

    def _directory(self, name: PodName) -> Path:
        return self._root / str(name)

    def _environment(self) -> dict[str, str]:
        """Return the environment of a trainer, without credentials of other servers."""
        settings = self._settings
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(PRIVATE)}
        supervisor = settings.supervisor_pid
        return (
            inherited
            | trainer_environment(settings)
            | ({} if supervisor is None else {"ECOLINK_SUPERVISOR_PID": str(supervisor)})
            | {
                "ECOLINK_HOME": str(settings.home.resolve()),
                # Jobs share compiled kernels. Two cores need no compile pool.
                "TORCHINDUCTOR_CACHE_DIR": str(settings.compiled),
                "TORCHINDUCTOR_COMPILE_THREADS": "1",
            }
        )

    def _shim(self, name: PodName) -> psutil.Process | None:
        shim = read(self._directory(name) / "pod.json")
        return None if shim is None else living(shim.get("pid"), shim.get("born"))


def _await_pod(directory: Path, shim: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait until a shim has written its pod.json. Return False if it ended or is too slow."""
    deadline, pod = time.monotonic() + seconds, directory / "pod.json"
    while not pod.exists():
        if shim.poll() is not None or time.monotonic() > deadline:
            return pod.exists()  # the shim may have written it just before it ended
        time.sleep(0.002)
    return True


def _identity(path: Path) -> str:
    """Return the identity of this pod store. The first call creates it."""
    with suppress(FileExistsError), path.open("x") as file:
        file.write(uuid4().hex)
    return path.read_text()


def _visible(devices: list[int]) -> dict[str, str]:
    """Return an environment that limits CUDA to these GPUs. Without GPUs, trainers use the CPU."""
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, devices)),
    }
