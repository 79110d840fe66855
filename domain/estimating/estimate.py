"""The estimate of a job: its seconds by phase, and its cost range."""

from __future__ import annotations

import math

from domain.catalog.catalog_entries import GpuType
from domain.catalog.machine import Conditions
from domain.catalog.model_shape import ModelShape
from domain.core.errors import Invalid
from domain.core.money import charge_micros
from domain.core.value import Value
from domain.estimating.memory import Fit
from domain.estimating.pricing import HEADROOM, LONGEST_SECONDS, MIN_MEASURED_STEPS, PROBED_TFLOPS
from domain.estimating.workload import Work as Work
from domain.estimating.workload import phase_seconds
from domain.training.hyperparameters import Hyperparameters
from domain.training.phases import Phase
from domain.training.precision import Precision as Precision
from domain.training.token_lengths import TokenLengths


class PhaseEstimate(Value):
    """The estimated seconds of a phase: without calibration, and as a calibrated range."""

    phase: Phase
    model_seconds: float
    low_seconds: float
    high_seconds: float

    @property
    def typical_seconds(self) -> float:
        """Expected seconds: the geometric mean of the bounds."""
        return math.sqrt(self.low_seconds * self.high_seconds)

    def scaled(self, share: float) -> PhaseEstimate:
        """Return the estimate for a share (0 to 1) of the phase."""
        return PhaseEstimate(
            phase=self.phase,
            model_seconds=self.model_seconds * share,
            low_seconds=self.low_seconds * share,
            high_seconds=self.high_seconds * share,
        )

    def measured(self, seconds: float) -> PhaseEstimate:
        """Return the estimate for measured seconds, which may include the slowdown by a load.

        The load raises the upper bound only as far as it exceeds the difference from the model.
        """
        typical = self.low_seconds * math.sqrt(HEADROOM)
        slowdown = self.high_seconds / (HEADROOM * self.low_seconds)
        return PhaseEstimate(
            phase=self.phase,
            model_seconds=self.model_seconds,
            low_seconds=seconds / math.sqrt(HEADROOM),
            high_seconds=math.sqrt(HEADROOM) * max(seconds, slowdown * min(seconds, typical)),
        )


class Estimate(Value):
    """Time and cost of a job, or of its remaining work. JobApproved and JobResumed record it."""

    rate_micros_per_hour: int  # price of all GPUs of the job
    tokens: int  # tokens of all epochs, after truncation
    total_steps: int  # number of optimizer steps
    calibrated_from: int  # number of jobs used for calibration; 0: only the catalog's values
    # Number of the job's own steps that the training time is based on; 0: none.
    measured_steps: int = 0
    # Share of the training after which it may stop early, for the lower bound; 1: never.
    earliest_stop: float = 1.0
    phases: tuple[PhaseEstimate, ...]
    # None: the GPU type is not CPU-backed, or its conditions are unknown.
    conditions: Conditions | None = None

    @property
    def basis(self) -> str:
        """Sentences that state the basis of the range, and the machine load that it assumes."""
        early = ""
        if self.earliest_stop < 1:
            steps = round(self.earliest_stop * self.total_steps)
            early = (
                f" The lower bound assumes that training stops early after {steps:,} of "
                f"{self.total_steps:,} steps."
            )
        return self._basis + early

    @property
    def _basis(self) -> str:
        conditions = self.conditions
        if self.measured_steps:
            basis = (
                f"The training time is based on the {self.measured_steps:,} steps that the job has "
                "trained and saved so far."
            )
        elif self.calibrated_from:
            jobs = "job" if self.calibrated_from == 1 else "jobs"
            basis = f"The estimate is calibrated from {self.calibrated_from:,} finished {jobs}."
        elif conditions is not None and conditions.tflops is not None:
            basis = (
                "The estimate is not calibrated from finished jobs yet. It is based on a "
                f"one-second speed test of the machine ({conditions.tflops:.2g} TFLOPS)."
            )
        else:
            basis = (
                "The estimate is not calibrated from finished jobs yet. It is based on the "
                "catalog's figures."
            )
        if conditions is None:
            return basis
        if conditions.load is None:
            basis += " The machine's load is unknown. Other work on the machine slows down the job."
        if conditions.busy > 1:
            basis += (
                f" The machine is busy: {conditions.load:.1f} processes compete for its "
                f"{conditions.cores} cores."
            )
        if conditions.jobs:
            others = "1 other job" if conditions.jobs == 1 else f"{conditions.jobs} other jobs"
            basis += (
                f" The job shares the machine's {conditions.cores} cores with up to {others} that "
                "run now or are ahead in the queue."
            )
        if conditions.slowdown > 1:
            raised = f"{self.slowdown:.2g}"
            if raised == "1":
                basis += (
                    f" The {'steps' if self.measured_steps else 'finished jobs'} ran under a "
                    "similar or higher load, so the range already allows for it."
                )
            else:
                basis += f" The upper bound therefore allows for up to {raised} times the duration."
        return basis

    @property
    def slowdown(self) -> float:
        """Factor by which the machine's load raises the upper bound; 1 if it does not."""
        ranges = [each for each in self.phases if each.phase is not Phase.REGISTER]
        if self.measured_steps:  # the load may raise the other phases more
            ranges = [each for each in ranges if each.phase is Phase.TRAINING]
        ratios = [each.high_seconds / each.low_seconds for each in ranges if each.low_seconds > 0]
        return max(1.0, max(ratios, default=1.0) / HEADROOM)

    @property
    def low_seconds(self) -> int:
        """Lower bound in whole seconds."""
        return math.floor(sum(map(self.lowest, self.phases)))

    @property
    def high_seconds(self) -> int:
        """Upper bound in whole seconds."""
        return math.ceil(sum(each.high_seconds for each in self.phases))

    @property
    def low_micros(self) -> int:
        """Lower bound of the cost, in micro-dollars."""
        return charge_micros(self.rate_micros_per_hour, self.low_seconds)

    @property
    def high_micros(self) -> int:
        """Upper bound of the cost, in micro-dollars. Approval requires at least this balance."""
        return charge_micros(self.rate_micros_per_hour, self.high_seconds)

    def measured(self, steps: int, seconds: float) -> Estimate:
        """Return the estimate with the mean time of steps that the job has trained, if enough.

        A few steps are enough if they took longer than the estimate of all.
        """
        enough = steps >= MIN_MEASURED_STEPS or (steps and seconds > self.high_seconds)
        if not enough or not self.total_steps:
            return self
        training = self.total_steps * seconds / steps
        phases = tuple(
            each.measured(training) if each.phase is Phase.TRAINING else each
            for each in self.phases
        )
        return self.model_copy(update={"phases": phases, "measured_steps": steps})

    def lowest(self, phase: PhaseEstimate) -> float:
        """Return the lower bound of one of the phases in seconds, if training stops early."""
        share = self.earliest_stop if phase.phase is Phase.TRAINING else 1.0
        return share * phase.low_seconds

    def typical_seconds(self, phase: Phase) -> float:
        """Return the expected seconds of a phase, without an early stop."""
        return sum(each.typical_seconds for each in self.phases if each.phase is phase)


class Calibration(Value):
    """Ratios of actual to modeled seconds by phase, and the machine's current conditions."""

    factors: dict[Phase, float] = {}
    jobs: int = 0
    slowdown: float = 1.0  # median slowdown in the estimates of the calibrating jobs
    # Current conditions of a CPU-backed type; None: not CPU-backed, or unknown.
    conditions: Conditions | None = None


def sequence_length(
    hyperparameters: Hyperparameters, shape: ModelShape, *lengths: TokenLengths
) -> int:
    """Return the tokens of the longest example, truncated to the maximum and the base's context."""
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
    """Estimate a whole job. `rate_micros_per_hour` is the price of all its GPUs.

    The typical seconds of a phase are its modeled seconds times its factor. The lower bound is the
    typical seconds / sqrt(1.3). The upper bound is 1.3 times the lower bound. The phase `register`
    is short and has no headroom. On a CPU, the probed speed replaces factors that are not
    calibrated. The reference of DPO has the factor of training until it has its own. If the load is
    higher than that of the finished jobs, the upper bound rises. The lower bound of the whole job
    assumes the earliest possible stop. Raise Invalid if the dataset is too small, or if the job
    takes more than a year.
    """
    if work.trained_on < 1:
        count = work.examples
        raise Invalid(
            f"The dataset has {count} {'example' if count == 1 else 'examples'}. Add examples "
            "until it has at least 2, or choose a validation dataset.",
            field="dataset",
        )
    seconds = phase_seconds(work, gpu, gpu_count, fit)
    conditions = calibration.conditions
    measured = calibration.factors
    if Phase.TRAINING in measured:  # both are passes over all examples at the same speed
        measured = {Phase.REFERENCE: measured[Phase.TRAINING]} | measured
    factors = _probed(work, gpu, gpu_count, fit, conditions) | measured
    slowdown = 1.0 if conditions is None else conditions.slowdown / calibration.slowdown
    phases = tuple(
        _ranged(phase, seconds[phase], factors.get(phase, 1.0), max(1.0, slowdown))
        for phase in Phase
        if phase in seconds
    )
    total_steps = work.total_steps(gpu_count)
    priced = Estimate(
        rate_micros_per_hour=rate_micros_per_hour,
        tokens=work.trained_tokens,
        total_steps=total_steps,
        calibrated_from=calibration.jobs,
        earliest_stop=work.hyperparameters.earliest_stop(total_steps) / total_steps,
        phases=phases,
        conditions=conditions,
    )
    if sum(each.high_seconds for each in phases) > LONGEST_SECONDS:
        days = priced.low_seconds // 86_400
        raise Invalid(
            f"The job would take {days:,} days or more, but the limit is "
            f"{LONGEST_SECONDS // 86_400} days. Use fewer epochs or a smaller dataset.",
            field="hyperparameters.epochs",
        )
    return priced


def _probed(
    work: Work, gpu: GpuType, gpu_count: int, fit: Fit, conditions: Conditions | None
) -> dict[Phase, float]:
    """Return factors derived from the probed speed of the machine; empty if it is unknown."""
    if conditions is None or conditions.tflops is None:
        return {}
    scaled = gpu.bf16_tflops * conditions.tflops / PROBED_TFLOPS
    here = gpu.model_copy(update={"bf16_tflops": scaled})
    catalog, measured = (phase_seconds(work, each, gpu_count, fit) for each in (gpu, here))
    return {
        phase: measured[phase] / catalog[phase]
        for phase in (Phase.REFERENCE, Phase.TRAINING, Phase.EVALUATION)
        if catalog.get(phase, 0) > 0
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
    whole: Estimate,
    *,
    step: int,
    total_steps: int,
    trained: bool,
    rate_micros_per_hour: int,
    earliest_stop: int | None = None,
) -> Estimate:
    """Estimate the remaining work of a job that resumes after `step`, at the current rate.

    The job starts up, trains the remaining steps (none if `trained` is true), evaluates the model
    and registers it. `earliest_stop` is the first step at which training can end from here on;
    None: only the last. Checkpoints have the log-probabilities of the reference, so only a job that
    starts over computes them. `whole` is the estimate of the whole job.
    """
    left = 0 if trained else max(0, total_steps - step)
    share = left / total_steps if total_steps > 0 else 0.0
    shares = {Phase.TRAINING: share, Phase.REFERENCE: 0.0 if step or trained else 1.0}
    return Estimate(
        rate_micros_per_hour=rate_micros_per_hour,
        tokens=round(whole.tokens * share),
        total_steps=left,
        calibrated_from=whole.calibrated_from,
        earliest_stop=1.0 if earliest_stop is None or not left else (earliest_stop - step) / left,
        conditions=whole.conditions,
        phases=tuple(
            each.scaled(shares[each.phase]) if each.phase in shares else each
            for each in whole.phases
        ),
    )
