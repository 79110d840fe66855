"""Warm trainers, which start before their segments, each under its own shim."""

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
from infrastructure.training.reports import SegmentSpec
from infrastructure.training.warm_start import (
    EXPECTED_BASE,
    READY,
    WARM_FLAG,
    ExpectedBase,
    WarmStart,
)

PAUSE_SECONDS = 20.0
"""Seconds from a launch to the next warm trainer, whose imports would slow it down."""

BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 5.0, 300.0
LEAST_MEMORY_BYTES = 2 * 1024**3  # of free memory; an idle warm trainer uses about 0.5 GB
KILL_SECONDS = 5.0  # the kernel may take a while to end a killed process
LOG_TAIL_BYTES = 500


@dataclass(frozen=True)
class WarmTrainer:
    """A trainer that is starting or idle. Its shim reads a WarmStart from standard input."""

    directory: Path
    shim: subprocess.Popen[bytes]
    base: ExpectedBase | None

    @property
    def ready(self) -> bool:
        """True if the trainer is alive and has finished starting."""
        return self.shim.poll() is None and (self.directory / READY).exists()

    def warm_start(self, pod: Path, environment: Mapping[str, str]) -> bool:
        """Assign the segment in a pod's directory to the trainer. Return False if it ended."""
        handed = WarmStart(directory=pod, environment=dict(environment), handed_at=time.monotonic())
        assert self.shim.stdin is not None
        try:
            with self.shim.stdin as stdin:
                stdin.write(handed.line)
        except BrokenPipeError:
            return False
        return True

    def delete(self) -> None:
        """Delete the directory of a trainer that ended or was taken."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def tail(self) -> str:
        """Return the end of the trainer's output from before it got a segment."""
        with suppress(FileNotFoundError):
            log = (self.directory / "trainer.log").read_bytes()
            return log[-LOG_TAIL_BYTES:].decode(errors="replace")
        return ""


class WarmPool:
    """Up to `size` warm trainers. They end with this process unless they have taken a segment.

    `program` is the command of a trainer; `environment` returns its environment. Thread-safe.
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
        self._cleaned = False
        self._pause_until = self._backs_off_until = 0.0
        self._failures = 0
        self._logger = logging.getLogger("launcher")

    def prepare(self, idle: bool) -> None:
        """Replace ended trainers. `idle` means that no segment runs on this machine."""
        if self._size == 0:
            return
        with self._lock:
            self._delete_leftovers()
            for trainer in [each for each in self._waiting if each.shim.poll() is not None]:
                self._waiting.remove(trainer)
                self._back_off(f"a warm trainer ended while it waited: {trainer.tail()}")
                trainer.delete()
            if any(each.ready for each in self._waiting):
                self._failures = 0
            now = time.monotonic()
            pausing = now < self._pause_until and not idle
            missing = len(self._waiting) < self._size
            if missing and not pausing and now >= self._backs_off_until and _memory_available():
                try:
                    self._waiting.append(self._start())
                except OSError as error:
                    self._back_off(f"cannot start a warm trainer: {error}")

    def take(self, spec: SegmentSpec, on_gpu: bool) -> WarmTrainer | None:
        """Take a ready trainer, preferably one with the segment's base model, or return None.

        Segments with several ranks or a 4-bit base model use a cold start. With several ranks, the
        first rank starts the others. A warm trainer has imported the libraries for 16-bit base
        models only.
        """
        if self._size == 0:
            return None
        with self._lock:
            base = self._expect(spec, on_gpu)
            self._pause_until = time.monotonic() + PAUSE_SECONDS
            ready = [each for each in self._waiting if each.ready]
            if not ready or spec.gpu_count > 1 or spec.precision is Precision.NF4:
                return None
            chosen = max(ready, key=lambda each: each.base is not None and each.base == base)
            self._waiting.remove(chosen)
            return chosen

    def close(self) -> None:
        """End all idle trainers."""
        with self._lock:
            for trainer in self._waiting:
                kill_group(trainer.shim)
                trainer.delete()
            self._waiting.clear()

    def _expect(self, spec: SegmentSpec, on_gpu: bool) -> ExpectedBase | None:
        """Expect the next segment to use the base model of this segment. Return it, or None."""
        if spec.base_manifest_sha256 is None:
            return None
        base = ExpectedBase(
            ref=spec.base_ref,
            manifest_sha256=spec.base_manifest_sha256,
            on_gpu=on_gpu,
            dtype=spec.dtype,
        )
        if base != self._expected():
            with suppress(OSError):  # a later launch is only slower
                self._root.mkdir(parents=True, exist_ok=True)
                (self._root / EXPECTED_BASE).write_text(base.model_dump_json())
        return base

    def _expected(self) -> ExpectedBase | None:
        try:
            return ExpectedBase.model_validate_json((self._root / EXPECTED_BASE).read_bytes())
        except (OSError, ValidationError):
            return None

    def _delete_leftovers(self) -> None:
        """Delete, once, the directories of an earlier process. Its trainers have ended with it."""
        if not self._cleaned:
            self._cleaned = True
            for path in self._root.glob("*/"):
                shutil.rmtree(path, ignore_errors=True)

    def _start(self) -> WarmTrainer:
        directory, base = self._root / uuid4().hex, self._expected()
        directory.mkdir(parents=True)
        if base is not None:
            (directory / EXPECTED_BASE).write_text(base.model_dump_json())
        arguments = ["--warm", *self._program, WARM_FLAG, str(directory)]
        shim = start_shim(directory, arguments, self._environment(), subprocess.PIPE)
        return WarmTrainer(directory, shim, base)

    def _back_off(self, failure: str) -> None:
        self._failures += 1
        seconds = min(LONGEST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** min(self._failures - 1, 10))
        self._backs_off_until = time.monotonic() + seconds
        self._logger.warning("%s; another in %g s", failure, seconds)


def start_shim(
    directory: Path, arguments: Sequence[str], environment: Mapping[str, str], stdin: int
) -> subprocess.Popen[bytes]:
    """Start a shim in its own session. It logs to trainer.log in the directory."""
    with (directory / "trainer.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "services.scheduler.launchers.shim", *arguments],
            stdin=stdin,
            stdout=log,
            stderr=log,
            env=environment,
            bufsize=0,
            start_new_session=True,
        )


def kill_group(shim: subprocess.Popen[bytes]) -> None:
    """Kill a shim and its trainer, which form one process group."""
    with suppress(ProcessLookupError):
        os.killpg(shim.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        shim.wait(KILL_SECONDS)


def _memory_available() -> bool:
    return psutil.virtual_memory().available >= LEAST_MEMORY_BYTES
