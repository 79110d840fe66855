"""Trainers that are started ahead of their segments, each waiting under a shim of its own."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
from pydantic import ValidationError

from domain.training.precision import Precision
from infrastructure.reports import SegmentSpec
from infrastructure.warm_start import EXPECTED_BASE, READY, WARM_FLAG, ExpectedBase, WarmStart

REST_SECONDS = 20.0
"""After a launch, before the next trainer is warmed: its imports leave the new segment's start, and
the quick jobs, alone. When nothing runs there is no need to wait."""

BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 5.0, 300.0
LEAST_MEMORY_BYTES = 2 * 1024**3  # free, for a trainer of some 0.5 GB that only waits
KILL_SECONDS = 5.0  # a process that is killed runs none of its code, but may be long in going
LOG_TAIL_BYTES = 500


@dataclass(frozen=True)
class WarmTrainer:
    """A trainer that prepares, or waits; its shim listens at its standard input."""

    directory: Path
    shim: subprocess.Popen[bytes]
    base: ExpectedBase | None

    @property
    def ready(self) -> bool:
        """Whether it lives and has nothing left to prepare."""
        return self.shim.poll() is None and (self.directory / READY).exists()

    def warm_start(self, pod: Path, environment: Mapping[str, str]) -> bool:
        """Give it the segment whose spec lies in a pod's directory; False if it is gone."""
        handed = WarmStart(directory=pod, environment=dict(environment), handed_at=time.monotonic())
        assert self.shim.stdin is not None
        try:
            with self.shim.stdin as stdin:
                stdin.write(handed.line)
        except BrokenPipeError:
            return False
        return True

    def tail(self) -> str:
        """The end of what it printed while it waited."""
        with suppress(FileNotFoundError):
            log = (self.directory / "trainer.log").read_bytes()
            return log[-LOG_TAIL_BYTES:].decode(errors="replace")
        return ""


class WarmPool:
    """Up to `size` warm trainers; they end with this process, but for those that took a segment.

    `program` is the trainer's command, `environment` what it is started with. Safe to use from
    several threads.
    """

    def __init__(
        self,
        root: Path,
        size: int,
        program: Sequence[str],
        environment: Callable[[], Mapping[str, str]],
    ) -> None:
        self._root, self._size = root, size
        self._program, self._environment = program, environment
        self._waiting: list[WarmTrainer] = []
        self._lock = threading.Lock()
        self._swept = False
        self._rests_until = self._backs_off_until = 0.0
        self._failures = 0
        self._logger = logging.getLogger("launcher")

    def prepare(self, idle: bool) -> None:
        """Bury what died, and start what is missing; `idle`: no segment runs here."""
        if self._size == 0:
            return
        with self._lock:
            self._sweep()
            for trainer in [each for each in self._waiting if each.shim.poll() is not None]:
                self._bury(trainer)
            if any(each.ready for each in self._waiting):
                self._failures = 0
            now = time.monotonic()
            resting = now < self._rests_until and not idle
            missing = len(self._waiting) < self._size
            if missing and not resting and now >= self._backs_off_until and _has_room():
                try:
                    self._waiting.append(self._start())
                except OSError as error:
                    self._back_off(f"a warm trainer cannot be started: {error}")

    def take(self, spec: SegmentSpec, on_gpu: bool) -> WarmTrainer | None:
        """A trainer that is ready for a segment, the one with its base first; None if none is.

        Several ranks are started by their leader, and a trainer that imported the stack for 16-bit
        bases cannot use 4 bits: those segments start cold. It is the caller's from now on.
        """
        if self._size == 0:
            return None
        with self._lock:
            base = self._expect(spec, on_gpu)
            self._rests_until = time.monotonic() + REST_SECONDS
            ready = [each for each in self._waiting if each.ready]
            if not ready or spec.gpu_count > 1 or spec.precision is Precision.NF4:
                return None
            chosen = max(ready, key=lambda each: each.base is not None and each.base == base)
            self._waiting.remove(chosen)
            return chosen

    def forget(self, trainer: WarmTrainer) -> None:
        """Remove what a trainer left that was taken."""
        shutil.rmtree(trainer.directory, ignore_errors=True)

    def close(self) -> None:
        """End every trainer that waits."""
        with self._lock:
            for trainer in self._waiting:
                kill_group(trainer.shim)
                self.forget(trainer)
            self._waiting.clear()

    def _expect(self, spec: SegmentSpec, on_gpu: bool) -> ExpectedBase | None:
        """The base of the newest segment is that of the next, as far as one can tell."""
        if spec.base_manifest_sha256 is None:
            return None
        base = ExpectedBase(
            ref=spec.base_ref,
            manifest_sha256=spec.base_manifest_sha256,
            on_gpu=on_gpu,
            dtype=spec.dtype,
        )
        if base != self._expected():
            with suppress(OSError):  # it only makes a later launch slower
                self._root.mkdir(parents=True, exist_ok=True)
                (self._root / EXPECTED_BASE).write_text(base.model_dump_json())
        return base

    def _expected(self) -> ExpectedBase | None:
        try:
            return ExpectedBase.model_validate_json((self._root / EXPECTED_BASE).read_bytes())
        except (OSError, ValidationError):
            return None

    def _sweep(self) -> None:
        """Once: the folders of a process before this one, whose trainers ended with it."""
        if not self._swept:
            self._swept = True
            for path in self._root.glob("*/"):
                shutil.rmtree(path, ignore_errors=True)

    def _start(self) -> WarmTrainer:
        directory, base = self._root / uuid4().hex, self._expected()
        directory.mkdir(parents=True)
        if base is not None:
            (directory / EXPECTED_BASE).write_text(base.model_dump_json())
        shim = [sys.executable, "-m", "services.scheduler.launchers.shim", "--warm"]
        with (directory / "trainer.log").open("ab") as log:
            process = subprocess.Popen(
                [*shim, *self._program, WARM_FLAG, str(directory)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment(),
                bufsize=0,
                start_new_session=True,
            )
        return WarmTrainer(directory, process, base)

    def _bury(self, trainer: WarmTrainer) -> None:
        """Forget a trainer that died while it waited."""
        self._waiting.remove(trainer)
        self._back_off(f"a warm trainer ended while it waited: {trainer.tail()}")
        self.forget(trainer)

    def _back_off(self, failure: str) -> None:
        """Say what failed, and try again after a while, each time a longer one."""
        self._failures += 1
        seconds = min(LONGEST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** min(self._failures - 1, 10))
        self._backs_off_until = time.monotonic() + seconds
        self._logger.warning("%s; another in %g s", failure, seconds)


def kill_group(shim: subprocess.Popen[bytes]) -> None:
    """End a shim and all that it started, which are one process group."""
    with suppress(ProcessLookupError):
        os.killpg(shim.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        shim.wait(KILL_SECONDS)


def _has_room() -> bool:
    return psutil.virtual_memory().available >= LEAST_MEMORY_BYTES
