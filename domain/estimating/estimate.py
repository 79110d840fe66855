"""The estimate: seconds by phase and a cost range, from the constants that the meter charges by."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from domain.catalog.catalog_entries import GpuType
from domain.catalog.machine import Conditions
from domain.catalog.model_shape import ModelShape
from domain.core.errors import Invalid
from domain.core.money import charge_micros
from domain.estimating.memory import Fit
from domain.estimating.pricing import HEADROOM, LONGEST_SECONDS, PROBED_TFLOPS
from domain.estimating.workload import Work as Work
from domain.estimating.workload import phase_seconds
from domain.training.hyperparameters import Hyperparameters
from domain.training.phases import Phase
from domain.training.precision import Precision as Precision
from domain.training.token_lengths import TokenLengths


class PhaseEstimate(BaseModel):
    """Seconds of one phase: by the constants alone, and the calibrated range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: Phase
    model_seconds: float
    low_seconds: float
    high_seconds: float

    @property
    def typical_seconds(self) -> float:
        """What is expected: the geometric middle of the range."""
        return math.sqrt(self.low_seconds * self.high_seconds)

    def scaled(self, share: float) -> PhaseEstimate:
        """This phase with a share (0 to 1) of its work."""
        return PhaseEstimate(
            phase=self.phase,
            model_seconds=self.model_seconds * share,
            low_seconds=self.low_seconds * share,
            high_seconds=self.high_seconds * share,
        )


class Estimate(BaseModel):
    """What a job, or the rest of one, will take and cost; JobApproved and JobResumed freeze it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_micros_per_hour: int  # of all its GPUs
    tokens: int  # that training sees, over all epochs, after truncation
    total_steps: int  # optimizer steps that it covers
    calibrated_from: int  # finished jobs behind the factors; 0: the catalog alone
    phases: tuple[PhaseEstimate, ...]
    conditions: Conditions | None = None  # of a CPU's machine; None: of a GPU, or not known

    @property
    def basis(self) -> str:
        """Sentences that say what the range goes by, and what it allows for."""
        conditions = self.conditions
        if self.calibrated_from:
            jobs = "job" if self.calibrated_from == 1 else "jobs"
            said = f"Calibrated from {self.calibrated_from} finished {jobs}."
        elif conditions is not None and conditions.tflops is not None:
            said = (
                "Not calibrated by a finished job yet. Based on a one-second speed test of the "
                f"machine ({conditions.tflops:.2g} TFLOPS)."
            )
        else:
            said = "Not calibrated by a finished job yet. Based on the catalog's figures."
        if conditions is None:
            return said
        if conditions.load is None:
            return f"{said} The machine's load is unknown; other work on it slows the job."
        if conditions.slowdown > 1:
            said += (
                f" The machine is busy ({conditions.load:.1f} processes compete for its "
                f"{conditions.cores} cores), so the upper bound allows for up to "
                f"{conditions.slowdown:g} times the time."
            )
        return said

    @property
    def low_seconds(self) -> int:
        """Whole seconds if all goes well."""
        return math.floor(sum(each.low_seconds for each in self.phases))

    @property
    def high_seconds(self) -> int:
        """Whole seconds with the headroom."""
        return math.ceil(sum(each.high_seconds for each in self.phases))

    @property
    def low_micros(self) -> int:
        """Cost if all goes well, micro-dollars."""
        return charge_micros(self.rate_micros_per_hour, self.low_seconds)

    @property
    def high_micros(self) -> int:
        """Cost with the headroom, micro-dollars; the balance gate asks for it."""
        return charge_micros(self.rate_micros_per_hour, self.high_seconds)

    def typical_seconds(self, phase: Phase) -> float:
        """Expected seconds of a phase."""
        return sum(each.typical_seconds for each in self.phases if each.phase is phase)


class Calibration(BaseModel):
    """What finished jobs and the machine teach: actual over modelled seconds by phase, else 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factors: dict[Phase, float] = {}
    jobs: int = 0
    slowdown: float = 1.0  # that was allowed for when those jobs were priced; the median
    conditions: Conditions | None = None  # of a CPU's machine now


def sequence_length(
    hyperparameters: Hyperparameters, shape: ModelShape, *lengths: TokenLengths
) -> int:
    """Tokens of the longest example of all datasets: no more than the field, or the context."""
    limit = hyperparameters.max_sequence_length or shape.context_length
    return min(limit, shape.context_length, max(each.longest for each in lengths))


def estimate(
    work: Work,
    gpu: GpuType,
    gpu_count: int,
    fit: Fit,
    calibration: Calibration,
    rate_micros_per_hour: int,
) -> Estimate:
    """The range of a whole job. `rate_micros_per_hour` is that of all its GPUs.

    A phase's typical seconds are what the constants say, times its factor. The lower bound, where
    all goes smoothly, is the typical seconds / sqrt(1.3), and the upper bound is 1.3 times the
    lower: so the range has the promised width, and as much room in proportion below what is
    expected as above it. Register is quick and has no headroom. Of a CPU, the probe's speed stands
    in for the factors that no job has taught, and a load that is higher than those jobs met raises
    the upper bound. Raises Invalid for a dataset too
    small to train on and for a job of more than a year.
    """
    if work.trained_on < 1:
        raise Invalid(
            f"the dataset has {work.lengths.examples} examples; at least 2 are needed, one to "
            "train on and one to hold out for evaluation, or a validation dataset beside it",
            field="dataset",
        )
    seconds = phase_seconds(work, gpu, gpu_count, fit)
    conditions = calibration.conditions
    factors = _probed(work, gpu, gpu_count, fit, conditions) | calibration.factors
    slowdown = 1.0 if conditions is None else conditions.slowdown / calibration.slowdown
    phases = tuple(
        _ranged(phase, seconds[phase], factors.get(phase, 1.0), max(1.0, slowdown))
        for phase in Phase
    )
    priced = Estimate(
        rate_micros_per_hour=rate_micros_per_hour,
        tokens=work.trained_tokens,
        total_steps=work.total_steps(gpu_count),
        calibrated_from=calibration.jobs,
        phases=phases,
        conditions=conditions,
    )
    if sum(each.high_seconds for each in phases) > LONGEST_SECONDS:
        days = priced.low_seconds // 86_400
        raise Invalid(
            f"the job would take {days:,} days or more; no job may take over "
            f"{LONGEST_SECONDS // 86_400} days",
            field="hyperparameters.epochs",
        )
    return priced


def _probed(
    work: Work, gpu: GpuType, gpu_count: int, fit: Fit, conditions: Conditions | None
) -> dict[Phase, float]:
    """Factors of the phases that compute, by the machine's measured speed; empty if unknown."""
    if conditions is None or conditions.tflops is None:
        return {}
    scaled = gpu.bf16_tflops * conditions.tflops / PROBED_TFLOPS
    here = gpu.model_copy(update={"bf16_tflops": scaled})
    catalog, measured = (phase_seconds(work, each, gpu_count, fit) for each in (gpu, here))
    return {
        phase: measured[phase] / catalog[phase]
        for phase in (Phase.TRAINING, Phase.EVALUATION)
        if catalog[phase] > 0
    }


def _ranged(phase: Phase, model_seconds: float, factor: float, slowdown: float) -> PhaseEstimate:
    typical = model_seconds * factor
    low = typical if phase is Phase.REGISTER else typical / math.sqrt(HEADROOM)
    return PhaseEstimate(
        phase=phase,
        model_seconds=model_seconds,
        low_seconds=low,
        high_seconds=low if phase is Phase.REGISTER else HEADROOM * slowdown * low,
    )


def remaining(
    whole: Estimate, *, step: int, total_steps: int, trained: bool, rate_micros_per_hour: int
) -> Estimate:
    """The rest of a job that is taken up again after `step` of `total_steps`, at today's rate.

    It starts up anew, trains the steps that are left (none if it is `trained`), evaluates and
    registers. `whole` is an estimate of the whole job.
    """
    left = 0 if trained else max(0, total_steps - step)
    share = left / total_steps if total_steps > 0 else 0.0
    return Estimate(
        rate_micros_per_hour=rate_micros_per_hour,
        tokens=round(whole.tokens * share),
        total_steps=left,
        calibrated_from=whole.calibrated_from,
        conditions=whole.conditions,
        phases=tuple(
            each.scaled(share) if each.phase is Phase.TRAINING else each for each in whole.phases
        ),
    )
