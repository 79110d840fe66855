"""`make bench-trainer`: compare our trainer's speed, memory and start with TRL's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.commands import fail
from deploy.local.errors import StackError
from domain.catalog.model_shape import ModelShape
from domain.estimating.memory import MOST_TOKENS
from domain.training.hyperparameters import Hyperparameters
from services.scheduler.launchers.trainer_environment import MALLOC
from tests.bench import trl_run
from tests.bench.aims import Verdict, conclude
from tests.bench.corpus import CorpusMissing
from tests.bench.learning import (
    AVAILABLE,
    LINEAR_LAYERS,
    Material,
    ModelOption,
    PythonOption,
    last_line,
    learn,
    material,
    run_module,
)
from tests.bench.measured_run import PeakConfig, Rows, RunConfig, RunResult, plan_of
from tests.bench.training_speed import Measured, Speed, operations_per_token, rotated
from tests.bench.trl_run import TrlConfig, TrlResult

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
AIM_TUNED, AIM_DEFAULT = 2.0, 6.0  # times TRL's tokens a second
AIM_MEMORY, AIM_PEAK_SHARE = 0.5, 0.35
MICRO_BATCH, ACCUMULATION = 4, 4
STEPS = 13
"""The first step does not count. TRL sorts every 12 batches of these chats by length, longest
first, so the other 12 are one of each length."""
DEFAULT_STEPS_SHARE, LEAST_STEPS = 3, 3  # TRL with its defaults is several times slower
PEAK = PeakConfig(dtype="bfloat16", sizes=(1024, 1536, 2048), times=15)
GIB = 1024**3

OURS, COMPILED, CHECKPOINTED = (
    f"EcoLink, {how}" for how in ("eager", "compiled", "gradient checkpointing")
)
TRL_DEFAULT = "TRL, default settings"
SIZES = ((MICRO_BATCH, ACCUMULATION), (MICRO_BATCH * ACCUMULATION, 1))
TRL_TUNED = {f"TRL, tuned, {rows} x {times}": (rows, times) for rows, times in SIZES}
TRL_COMPILED = f"TRL, tuned, {MICRO_BATCH} x {ACCUMULATION}, compiled"
BY_LAYER = {"ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "true"}
"""Compiling the whole model instead would take more than ten minutes."""

TRL_OWN = ("dtype", "bf16", "sampling", "gradient_checkpointing", "max_length")
"""Settings that keep TRL's defaults in its default run."""


@dataclass
class Found:
    """Measurements of all runs."""

    runs: dict[str, list[Measured]]
    peaks: list[float]  # operations per second, one per repeat
    versions: dict[str, str]
    shape: ModelShape | None = None

    def note(self, name: str, result: RunResult | TrlResult) -> None:
        """Add a run. Raise StackError if it is not comparable with the others."""
        if result.adapter_dtype != "float32":
            raise StackError(f"{name} has its adapter in {result.adapter_dtype}, not in float32")
        versions = {"torch": result.torch, "threads": str(result.threads)}
        if isinstance(result, TrlResult):
            versions["TRL"] = result.version
            memory, compiling = result.peak_gpu_bytes or result.peak_rss_bytes, 0.0
        else:
            self.shape, memory = result.shape, result.peak_memory_bytes
            compiling = result.compile_seconds
        for what, value in versions.items():
            if self.versions.setdefault(what, value) != value:
                raise StackError(f"{what}: {self.versions[what]}, but {value} in {name}")
        self.runs.setdefault(name, []).append(
            Measured(
                step_tokens=result.step_tokens,
                step_seconds=result.step_seconds,
                compile_seconds=compiling,
                first_step_seconds=result.first_step_seconds,
                peak_memory_bytes=memory,
            )
        )


def bench(
    python: PythonOption = Path(sys.executable),
    steps: Annotated[int, typer.Option(min=6, help="Optimizer steps of a run.")] = STEPS,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each contestant.")] = 3,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Of the base, except in TRL's default run.")
    ] = "bf16",
    compiled: Annotated[bool, typer.Option(help="Measure compiled layers, too.")] = True,
    model: ModelOption = None,
) -> None:
    """Run the same chats, batch and LoRA with every trainer, in turns and in separate processes."""
    console = Console(highlight=False)
    chosen = Hyperparameters(
        micro_batch_size=MICRO_BATCH,
        gradient_accumulation=ACCUMULATION,
        target_modules=LINEAR_LAYERS,
        lora_r=16,
        lora_alpha=32,
        dropout=0.05,
    )
    whole = AVAILABLE // (MICRO_BATCH * ACCUMULATION)  # steps per epoch
    try:
        require_trl(python)
        with tempfile.TemporaryDirectory(prefix="ecolink-bench-") as folder:
            made = material(Path(folder), whole, model, chosen)
            contest = Contest(made, Path(folder), python, min(steps, whole), precision)
            found = contest.run(repeats, console.print, compiled=compiled)
            rows: Rows = json.loads(made.data.read_text())
        assert found.shape is not None
        operations = operations_per_token(found.shape, chosen, rows["train"])
    except (StackError, CorpusMissing) as error:
        fail(str(error))
    console.print(drawn(found, operations))
    said = ", ".join(f"{what} {value}" for what, value in found.versions.items())
    console.print(f"{_processor()}; {said}; base in {precision}")
    peak = median(found.peaks)
    console.print(f"GEMM peak {peak / 1e9:.0f} GFLOP/s; {operations / 1e6:.0f} MFLOP a token")
    best = COMPILED if compiled else OURS
    for name in (each for each in (OURS, CHECKPOINTED) if each != best):
        for verdict in verdicts(found, name, operations):
            console.print(str(verdict))
    conclude(console, verdicts(found, best, operations))


def require_trl(python: Path) -> None:
    """Raise StackError unless a Python runs and has TRL."""
    look = "import importlib.util as u, sys; sys.exit(u.find_spec('trl') is None)"
    try:
        has_trl = subprocess.run([str(python), "-P", "-c", look]).returncode == 0
    except OSError as error:
        raise StackError(f"--python {python}: {error.strerror}") from error
    if not has_trl:
        raise StackError(
            f"{python} has no TRL: install it (pip install --group bench), or name a Python that "
            "has it with --python"
        )


@dataclass(frozen=True)
class Contest:
    """Trainers on the same material. Each run is a separate process."""

    made: Material
    folder: Path
    python: Path
    steps: int
    precision: Literal["fp32", "bf16"]

    def run(self, repeats: int, tell: Callable[[str], None], *, compiled: bool) -> Found:
        """Run all trainers several times, in another order each time. Raise StackError."""
        contestants: dict[str, Callable[[], RunResult | TrlResult]] = {OURS: self._ours}
        if compiled:
            contestants[COMPILED] = partial(self._ours, compiled=True)
        contestants[CHECKPOINTED] = partial(self._ours, checkpointing=True)
        contestants[TRL_DEFAULT] = self._trl_default
        for name, shape in TRL_TUNED.items():
            contestants[name] = partial(self._trl_tuned, *shape)
        if compiled:
            tuned = partial(self._trl_tuned, MICRO_BATCH, ACCUMULATION, compiled=True)
            contestants[TRL_COMPILED] = tuned
        found = Found({}, [], {})
        for repeat in range(repeats):
            found.peaks.append(float(run_module(PEAK, "--peak", environment=environment(MALLOC))))
            tell(f"{repeat + 1} of {repeats}: {found.peaks[-1] / 1e9:.0f} GFLOP/s in bf16 GEMM")
            for name in rotated(list(contestants), repeat):
                found.note(name, contestants[name]())
                tell(f"  {name}: {found.runs[name][-1].tokens_per_second:.0f} tokens/s")
        return found

    def _ours(self, *, compiled: bool = False, checkpointing: bool = False) -> RunResult:
        """Run EcoLink's trainer as the local launcher starts it."""
        config = RunConfig(
            model=self.made.model,
            data=self.made.data,
            hyperparameters=self.made.hyperparameters,
            precision=self.precision,
            steps=self.steps,
            compiled=compiled,
            checkpointing=checkpointing,
            batch_tokens=MOST_TOKENS,  # as the memory fit chooses for 16 GiB
        )
        with self._compiler_cache() as cache:
            return learn(config, environment(MALLOC | cache))

    @contextmanager
    def _compiler_cache(self) -> Generator[dict[str, str]]:
        """Yield the environment of a compiler with an empty cache."""
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            yield {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}

    def _trl_default(self) -> TrlResult:
        """Run fewer steps with TRL's defaults."""
        steps = max(LEAST_STEPS, self.steps // DEFAULT_STEPS_SHARE)
        own = {field.name: field.default for field in fields(TrlConfig) if field.name in TRL_OWN}
        config = replace(self._config(MICRO_BATCH, ACCUMULATION, steps), **own)  # type: ignore[arg-type]
        return self._trl(config, environment({}))

    def _trl_tuned(
        self, micro_batch: int, accumulation: int, *, compiled: bool = False
    ) -> TrlResult:
        """Run TRL with the precision and allocator of EcoLink, sorted by length."""
        config = self._config(micro_batch, accumulation, self.steps)
        config = replace(config, sampling="group_by_length", torch_compile=compiled)
        with self._compiler_cache() as cache:
            return self._trl(config, environment(MALLOC | cache | BY_LAYER))

    def _config(self, micro_batch: int, accumulation: int, steps: int) -> TrlConfig:
        """Return EcoLink's settings and learning rates, with another micro batch size."""
        ours = self.made.hyperparameters
        plan = plan_of(json.loads(self.made.data.read_text()), ours)
        return TrlConfig(
            model=str(self.made.model),
            data=str(self.made.data),
            output=str(self.folder / "trl"),
            learning_rates=[plan.learning_rate(n, ours) for n in range(steps)],
            target_modules=list(ours.target_modules),
            lora_r=ours.lora_r,
            lora_alpha=ours.lora_alpha,
            dropout=ours.dropout,
            micro_batch_size=micro_batch,
            gradient_accumulation=accumulation,
            weight_decay=ours.weight_decay,
            max_grad_norm=ours.max_grad_norm,
            seed=ours.seed,
            dtype=DTYPES[self.precision],
            bf16=self.precision == "bf16",
            sampling="sequential",
            gradient_checkpointing=False,
            max_length=None,
        )

    def _trl(self, config: TrlConfig, environment: dict[str, str]) -> TrlResult:
        command = [str(self.python), "-P", trl_run.__file__]
        return TrlResult(**json.loads(last_line(command, json.dumps(asdict(config)), environment)))


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with only the given settings that affect speed."""
    ours = ("ECOLINK_", "MALLOC_", "GOMP_", "OMP_", "MKL_", "TORCHINDUCTOR_")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | dict(settings)


COLUMNS = (
    "tokens/s\nmedian",
    "min-max\nof runs",
    "all steps\ntogether",
    "peak memory\nGiB",
    "start to first\nstep, s",
    "share of\nGEMM peak",
)


def drawn(found: Found, operations: float) -> Table:
    """Return a table with a row per trainer. `operations` are per token."""
    table = Table(title="Steps of 16 chats, LoRA of r = 16 on all linear layers")
    table.add_column("trainer")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, runs in found.runs.items():
        speed, speeds = Speed(runs), [run.tokens_per_second for run in runs]
        compile_seconds = speed.median("compile_seconds")
        compiling = f" ({compile_seconds:.1f} compiling)" if compile_seconds else ""
        table.add_row(
            name,
            f"{speed.tokens_per_second:.0f}",
            f"{min(speeds):.0f}-{max(speeds):.0f}",
            f"{speed.overall_tokens_per_second:.0f}",
            f"{speed.peak_memory_bytes / GIB:.2f}",
            f"{speed.median('first_step_seconds'):.1f}{compiling}",
            f"{speed.tokens_per_second * operations / median(found.peaks):.1%}",
        )
    return table


def verdicts(found: Found, name: str, operations: float) -> list[Verdict]:
    """Compare one of EcoLink's settings with the aims, and with the fastest of TRL's."""
    speeds = {each: Speed(runs) for each, runs in found.runs.items()}
    tuned = max(
        (each for each in (*TRL_TUNED, TRL_COMPILED) if each in speeds),
        key=lambda each: speeds[each].tokens_per_second,
    )
    ours, verdicts = speeds[name], list[Verdict]()
    for theirs, aim in ((tuned, AIM_TUNED), (TRL_DEFAULT, AIM_DEFAULT)):
        other = speeds[theirs]
        steps = ours.tokens_per_second / other.tokens_per_second
        together = ours.overall_tokens_per_second / other.overall_tokens_per_second
        memory = ours.peak_memory_bytes / other.peak_memory_bytes
        speed = f"{name}: {steps:.2f} x {theirs}, all steps together {together:.2f} x"
        verdicts += [
            Verdict(speed, f"{aim:.0f}", min(steps, together) >= aim),
            Verdict(
                f"{name}: {memory:.2f} of the memory of {theirs}",
                f"{AIM_MEMORY}",
                memory <= AIM_MEMORY,
            ),
        ]
    share = ours.tokens_per_second * operations / median(found.peaks)
    figure = f"{name}: {share:.1%} of the GEMM peak"
    return [*verdicts, Verdict(figure, f"{AIM_PEAK_SHARE:.0%}", share >= AIM_PEAK_SHARE)]


def _processor() -> str:
    """Return the name of the processor and the number of usable cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "CPU")
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    typer.run(bench)
