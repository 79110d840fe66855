"""Run real trainers one after another, with their own message server and store."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from deploy.demo.preparing import SOURCE
from domain.training.precision import Precision
from infrastructure.training.reports import FINAL_REPORT, Report, SegmentSpec
from tests.bench.stop_points import COMPILED_FLAG, MODULE
from tests.builders.tiny_model import chats
from tests.services.trainer.program import NatsServer
from tests.services.trainer.segments import SegmentStore, resuming

TINY = "tiny"
RUN_SECONDS = 1200.0  # timeout of a run
ACCUMULATION, SAVE_STEPS, STEPS = 3, 3, 12  # minimum number of steps
ROWS = 40
WARM_START = "warm start"
KINDS: Mapping[str, Mapping[str, Any]] = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    WARM_START: {},
    "best state": {"load_best_model_at_end": True, "eval_steps": 2, "learning_rate": 0.02},
}
"""Kinds of jobs, and the hyperparameters of each."""


@dataclass(frozen=True)
class Setting:
    """Base, precision and ranks of a run."""

    base: str
    precision: Precision
    ranks: int
    compiled: bool = False  # even if the run is short
    kind: str = "LoRA"  # one of KINDS

    def __str__(self) -> str:
        compiled = ", compiled" if self.compiled else ""
        kind = "" if self.kind == "LoRA" else f", {self.kind}"
        return f"{self.base}, {self.precision}, {self.ranks} rank(s){compiled}{kind}"


@dataclass(frozen=True)
class StopPoint:
    """A stop at the n-th time (from 1) that rank 0 reaches a place."""

    place: str
    number: int
    signal: signal.Signals

    def __str__(self) -> str:
        return f"{self.signal.name} in {self.place} {self.number}"


@dataclass(frozen=True)
class Outcome:
    """Results of a job, over all its segments."""

    losses: dict[int, float]  # by step
    adapter_sha256: str

    def differs(self, other: Outcome) -> str | None:
        """Return the difference of two outcomes, or None."""
        steps, other_steps = self.losses.keys(), other.losses.keys()
        if unsent := steps ^ other_steps:
            return f"no metrics of steps {sorted(unsent)}"
        odd = [step for step in sorted(steps) if self.losses[step] != other.losses[step]]
        if odd:
            return f"losses of steps {odd}"
        return "adapter" if self.adapter_sha256 != other.adapter_sha256 else None


@contextmanager
def trainers() -> Iterator[Trainers]:
    """Run a message server, and delete its data and the trainers' store at the end."""
    with tempfile.TemporaryDirectory(prefix="ecolink-trainers-") as folder:
        server = NatsServer(Path(folder))
        server.start()
        server.provision()
        try:
            yield Trainers(Path(folder), server)
        finally:
            server.stop()


class Trainers:
    """Real trainers that run one after another, with their own store."""

    def __init__(self, folder: Path, server: NatsServer) -> None:
        self._folder, self._server = folder, server
        self._store = SegmentStore(folder)
        self._starts: dict[Setting, dict[str, str]] = {}

    def offer(self, base: str) -> None:
        """Put a base model into the store, once."""
        if self._store.artifacts.list(f"models/{base}"):
            return
        directory = self._folder / TINY
        if base == TINY:
            self._call("tests.builders.tiny_model", str(directory))
            self._store.artifacts.put_directory(f"models/{base}", directory)
        else:
            self._call("services.model_import", "--source", SOURCE, "--name", base)

    def uninterrupted(self, setting: Setting) -> tuple[Outcome, float]:
        """Return the outcome of an uninterrupted run, and the seconds of its median step."""
        spec = self._spec(setting)
        self._run(setting, spec, None)
        times = [step["elapsed_seconds"] for step in self._server.steps(spec)]
        return self._outcome(spec), median(after - before for before, after in pairwise(times))

    def interrupted(self, setting: Setting, point: StopPoint) -> tuple[Outcome, float]:
        """Return the outcome of a run that was stopped and resumed, and the seconds to its exit."""
        spec = self._spec(setting)
        folder, latency = self._run(setting, spec, point)
        assert latency is not None, f"{point} was not reached"
        path = folder / FINAL_REPORT
        last = Report.model_validate_json(path.read_text()).checkpoint if path.exists() else None
        again = resuming(spec, *([] if last is None else [last]))
        self._run(setting, again, None)
        return self._outcome(again), latency

    def _spec(self, setting: Setting) -> SegmentSpec:
        prefix = f"models/{setting.base}"
        if not self._store.artifacts.exists(f"{prefix}/manifest.json"):
            prefix = self._store.artifacts.list(prefix)[0].rpartition("/")[0]
        hyperparameters = {
            "epochs": 2 * setting.ranks,
            "gradient_accumulation": ACCUMULATION,
            "dropout": 0.1,
            "save_steps": SAVE_STEPS,
            "max_sequence_length": 64,
            **KINDS[setting.kind],
        }
        return self._store.spec(
            hyperparameters,
            rows=chats(ROWS),
            base_model=setting.base,
            base_ref=prefix,
            precision=setting.precision,
            gpu_count=setting.ranks,
            paid_seconds=3600,
            grace_seconds=60,
            heartbeat_seconds=0.5,
            **(self._continued(setting) if setting.kind == WARM_START else {}),
        )

    def _continued(self, setting: Setting) -> dict[str, str]:
        """Return the fields of a spec that continues the adapter of an earlier job."""
        earlier = replace(setting, kind="LoRA")
        if earlier not in self._starts:
            spec = self._spec(earlier)
            self._run(earlier, spec, None)
            ref = spec.adapter_prefix
            sha256 = self._store.artifacts.manifest(ref).sha256
            self._starts[earlier] = {"start_ref": ref, "start_manifest_sha256": sha256}
        return self._starts[earlier]

    def _run(
        self, setting: Setting, spec: SegmentSpec, point: StopPoint | None
    ) -> tuple[Path, float | None]:
        """Run a segment to its end. Return its folder, and seconds from the signal to the exit."""
        folder = self._folder / f"{spec.job_id}-{spec.segment}"
        folder.mkdir()
        (folder / "spec.json").write_text(spec.model_dump_json())
        self._server.answer(spec)
        options = [COMPILED_FLAG] if setting.compiled else []
        if point is not None:
            options += [point.place, str(point.number), str(int(point.signal))]
        program = [MODULE if options else "services.trainer", *options, str(folder / "spec.json")]
        log = folder / "log"
        with log.open("wb") as file:
            code = self._start(*program, output=file).wait(RUN_SECONDS)
        exited_at = time.monotonic()
        text = log.read_text()
        signalled = re.search(r"^signalled at=([0-9.]+)$", text, re.MULTILINE)
        if code != 0 and (point is None or point.signal is not signal.SIGKILL):
            raise RuntimeError(f"a trainer exited with {code}:\n{text[-4000:]}")
        if setting.compiled and "layers are compiled" not in text:
            raise RuntimeError(f"a trainer compiled nothing:\n{text[-4000:]}")
        return folder, exited_at - float(signalled.group(1)) if signalled else None

    def _outcome(self, spec: SegmentSpec) -> Outcome:
        losses: dict[int, float] = {}
        for step in self._server.steps(spec):
            # A repeated step must have the same result.
            if losses.setdefault(step["step"], step["train_loss"]) != step["train_loss"]:
                losses[step["step"]] = float("nan")
        return Outcome(losses, self._store.adapter_sha256(spec))

    def _call(self, *program: str) -> None:
        code = self._start(*program).wait()
        if code != 0:
            raise RuntimeError(f"{program[0]} exited with {code}")

    def _start(self, *program: str, output: object = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "ECOLINK_NATS_URL": self._server.url,
            "ECOLINK_ARTIFACTS_URL": self._store.url,
            "TORCHINDUCTOR_CACHE_DIR": str(self._folder / "compiled"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-P", "-m", *program],
            stdout=output,  # type: ignore[arg-type]
            stderr=subprocess.STDOUT,
            env=environment,
        )
