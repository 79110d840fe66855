"""Run real trainers one after another, with their own message server and store."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeVar
from uuid import uuid4

import nats
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from deploy.demo.preparing import SOURCE
from deploy.local.nats import binary
from deploy.local.ports import free_port
from domain.estimating.estimate import Precision
from domain.training.hyperparameters import Hyperparameters
from infrastructure.artifacts import Artifacts
from infrastructure.bus import TELEMETRY, provision
from infrastructure.reports import (
    FINAL_REPORT,
    Control,
    Report,
    SegmentSpec,
    StepMeasured,
)
from tests.bench.stop_points import COMPILED_FLAG, MODULE

T = TypeVar("T")

TINY = "tiny"
RUN_SECONDS = 1200.0  # timeout of a run
ACCUMULATION, SAVE_STEPS, STEPS = 3, 3, 12  # minimum number of steps


@dataclass(frozen=True)
class Setting:
    """Base, precision and ranks of a run."""

    base: str
    precision: Precision
    ranks: int
    compiled: bool = False  # even if the run is short

    def __str__(self) -> str:
        compiled = ", compiled" if self.compiled else ""
        return f"{self.base}, {self.precision}, {self.ranks} rank(s){compiled}"


@dataclass(frozen=True)
class StopPoint:
    """Where a run is ended: the n-th time (from 1) that its rank 0 reaches a place."""

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
        """The difference of two outcomes, or None."""
        steps = self.losses.keys() | other.losses.keys()
        odd = [step for step in sorted(steps) if self.losses.get(step) != other.losses.get(step)]
        if odd:
            return f"losses of steps {odd}"
        return "adapter" if self.adapter_sha256 != other.adapter_sha256 else None


class Trainers:
    """Runs real trainers one after another, with their own store."""

    def __init__(self, folder: Path, nats_url: str, chats: int = 40) -> None:
        self._folder, self._url = folder, nats_url
        self._artifacts_url = (folder / "artifacts").as_uri()
        self._artifacts = Artifacts(self._artifacts_url)
        rows = [_chat(number) for number in range(chats)]
        self._data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        self._artifacts.put("chats.jsonl", self._data)

    def offer(self, base: str) -> None:
        """Put a base model into the store, once."""
        if self._artifacts.list(f"models/{base}"):
            return
        directory = self._folder / TINY
        if base == TINY:
            self._call("tests.builders.tiny_model", str(directory))
            self._artifacts.put_directory(f"models/{base}", directory)
        else:
            self._call("services.model_import", "--source", SOURCE, "--name", base)

    def uninterrupted(self, setting: Setting) -> tuple[Outcome, float]:
        """Outcome of an uninterrupted run, and seconds of its median step."""
        spec = self._spec(setting)
        self._run(setting, spec, None)
        measured = self._measured(spec)
        times = sorted({each.step: each.elapsed_seconds for each in measured}.values())
        steps = [after - before for before, after in pairwise(times)]
        return self._outcome(spec), median(steps)

    def interrupted(self, setting: Setting, point: StopPoint) -> tuple[Outcome, float]:
        """Outcome of a run that was ended at a point and resumed, and seconds to its exit."""
        spec = self._spec(setting)
        folder, latency = self._run(setting, spec, point)
        assert latency is not None, f"{point} was not reached"
        word = folder / FINAL_REPORT
        last = Report.model_validate_json(word.read_text()).checkpoint if word.exists() else None
        again = spec.model_copy(
            update={
                "segment": 2,
                "resume_from": () if last is None else (last,),
                "checkpoint_prefix": f"{spec.checkpoint_prefix}-2",
                "adapter_prefix": f"{spec.adapter_prefix}-2",
            }
        )
        self._run(setting, again, None)
        return self._outcome(again), latency

    def _spec(self, setting: Setting) -> SegmentSpec:
        job_id, prefix = uuid4(), f"models/{setting.base}"
        if not self._artifacts.exists(f"{prefix}/manifest.json"):
            prefix = self._artifacts.list(prefix)[0].rpartition("/")[0]
        return SegmentSpec(
            account_id=uuid4(),
            job_id=job_id,
            segment=1,
            dataset_ref="chats.jsonl",
            dataset_sha256=hashlib.sha256(self._data).hexdigest(),
            base_model=setting.base,
            base_ref=prefix,
            hyperparameters=Hyperparameters(
                epochs=2 * setting.ranks,
                micro_batch_size=2,
                gradient_accumulation=ACCUMULATION,
                dropout=0.1,
                save_steps=SAVE_STEPS,
                max_sequence_length=64,
            ),
            precision=setting.precision,
            gpu_count=setting.ranks,
            paid_seconds=3600,
            grace_seconds=60,
            heartbeat_seconds=0.5,
            checkpoint_prefix=f"jobs/{job_id}/checkpoints/segment-1",
            adapter_prefix=f"jobs/{job_id}/adapter/segment-1",
        )

    def _run(
        self, setting: Setting, spec: SegmentSpec, point: StopPoint | None
    ) -> tuple[Path, float | None]:
        """Run a segment to its end. Return its folder, and seconds from the signal to the exit."""
        folder = self._folder / f"{spec.job_id}-{spec.segment}"
        folder.mkdir()
        (folder / "spec.json").write_text(spec.model_dump_json())
        answered = Control(
            job_id=spec.job_id, segment=spec.segment, paid_seconds=spec.paid_seconds, answered=True
        )
        _ask(
            self._url, lambda js: js.publish(answered.subject, answered.model_dump_json().encode())
        )
        how = [COMPILED_FLAG] if setting.compiled else []
        if point is not None:
            how += [point.place, str(point.number), str(int(point.signal))]
        program = [MODULE if how else "services.trainer", *how, str(folder / "spec.json")]
        log = folder / "log"
        with log.open("wb") as file:
            process = self._start(*program, output=file)
            code = process.wait(RUN_SECONDS)
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
        for each in self._measured(spec):
            # A repeated step must have the same result.
            if losses.setdefault(each.step, each.train_loss) != each.train_loss:
                losses[each.step] = float("nan")
        files = self._artifacts.manifest(spec.adapter_prefix).files
        adapter = next(each for each in files if each.path == "adapter_model.safetensors")
        return Outcome(losses, adapter.sha256)

    def _measured(self, spec: SegmentSpec) -> list[StepMeasured]:
        """Step measurements of all segments of a job."""
        subject = f"telemetry.{spec.account_id}.{spec.job_id}.*"

        async def read(js: JetStreamContext) -> list[StepMeasured]:
            found = (await js.stream_info(TELEMETRY, subjects_filter=subject)).state.subjects or {}
            messages = await js.subscribe(
                subject, stream=TELEMETRY, ordered_consumer=True, deliver_policy=DeliverPolicy.ALL
            )
            return [
                StepMeasured.model_validate_json((await messages.next_msg(5)).data)
                for _ in range(sum(found.values()))
            ]

        return _ask(self._url, read)

    def _call(self, *program: str) -> None:
        code = self._start(*program).wait()
        if code != 0:
            raise RuntimeError(f"{program[0]} exited with {code}")

    def _start(self, *program: str, output: object = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "ECOLINK_NATS_URL": self._url,
            "ECOLINK_ARTIFACTS_URL": self._artifacts_url,
            "TORCHINDUCTOR_CACHE_DIR": str(self._folder / "compiled"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-P", "-m", *program],
            stdout=output,  # type: ignore[arg-type]
            stderr=subprocess.STDOUT,
            env=environment,
        )


@contextmanager
def nats_server() -> Iterator[str]:
    """URL of a temporary server with the declared streams."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ecolink-nats-") as folder:
        process = subprocess.Popen(
            [str(binary()), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"nats://127.0.0.1:{port}"
            _ask(url, lambda js: provision(js, ()))
            yield url
        finally:
            process.terminate()
            process.wait()


def _ask(url: str, question: Callable[[JetStreamContext], Awaitable[T]]) -> T:
    """Run a request on a new connection, and wait for a starting server."""

    async def run() -> T:
        for _ in range(100):
            try:
                client = await nats.connect(url, allow_reconnect=False, error_cb=_ignore)
                break
            except (NatsError, OSError):
                await asyncio.sleep(0.05)
        else:
            raise TimeoutError(f"no answer from {url}")
        try:
            return await question(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(run())


async def _ignore(_: Exception) -> None:
    """Ignore the error, which is also raised."""


def _chat(number: int) -> dict[str, Any]:
    """A short conversation of varying length."""
    question = f"What is {number} and {number}?" + " Tell me." * (number % 4)
    answer = f"It is {2 * number}." + " Good." * (number % 3)
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }
