"""What the API says of a quote: the fit, the range by phase, and the two gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from domain.capacity.availability import PoolLoad
from domain.core.money import SECONDS_PER_HOUR, Toward
from domain.estimating.estimate import Estimate, PhaseEstimate
from domain.estimating.memory import GIB, Fit
from domain.jobs.choices import Choices
from domain.training.phases import Phase
from domain.training.precision import Dtype, Precision
from gateway.schemas import Answer, Money


class PhaseAnswer(Answer):
    """Seconds and cost of one phase."""

    phase: Phase
    low_seconds: float
    high_seconds: float
    low: Money
    high: Money

    @classmethod
    def of(cls, priced: PhaseEstimate, rate_micros_per_hour: int) -> PhaseAnswer:
        """The answer for a phase; its costs are rounded, so that their sum may differ by that."""

        def cost(seconds: float, toward: Toward) -> Money:
            return Money.of(round(rate_micros_per_hour * seconds / SECONDS_PER_HOUR), toward)

        return cls(
            phase=priced.phase,
            low_seconds=round(priced.low_seconds, 1),
            high_seconds=round(priced.high_seconds, 1),
            low=cost(priced.low_seconds, Toward.DOWN),
            high=cost(priced.high_seconds, Toward.UP),
        )


class EstimateAnswer(Answer):
    """A range of duration and cost: low if all goes well, high with 30% headroom or more."""

    low_seconds: int
    high_seconds: int
    low: Money
    high: Money
    rate_per_hour: Money
    tokens: int = Field(description="That training sees, over all epochs, after truncation.")
    total_steps: int
    calibrated_from: int = Field(description="Finished jobs behind the estimate; 0: none yet.")
    basis: str = Field(
        description="What the range goes by (finished jobs, a speed test of the machine, or the "
        "catalog's figures), and whether a busy machine widens it; for people."
    )
    phases: list[PhaseAnswer]

    @classmethod
    def of(cls, estimate: Estimate) -> EstimateAnswer:
        """The answer for an estimate."""
        return cls(
            low_seconds=estimate.low_seconds,
            high_seconds=estimate.high_seconds,
            low=Money.of(estimate.low_micros, Toward.DOWN),
            high=Money.of(estimate.high_micros, Toward.UP),
            rate_per_hour=Money.price(estimate.rate_micros_per_hour),
            tokens=estimate.tokens,
            total_steps=estimate.total_steps,
            calibrated_from=estimate.calibrated_from,
            basis=estimate.basis,
            phases=[
                PhaseAnswer.of(each, estimate.rate_micros_per_hour) for each in estimate.phases
            ],
        )


class FitAnswer(Answer):
    """How the job lies in a GPU's memory, and why."""

    precision: Precision
    gradient_checkpointing: bool
    dtype: Dtype = Field(description="Computed with; the base is held in it unless in 4 bits.")
    memory: Literal["gpu", "host"] = Field(
        description="What is predicted, and measured later: all that the job takes of each GPU, or "
        "what its model takes of the host's memory, without the program itself."
    )
    banner: str = Field(description="The decision, as a sentence for people.")
    vram_gib: float
    needed_gib: float = Field(description="All items together, rounded up as in the banner.")
    headroom_gib: float
    items_gib: dict[str, float] = Field(description="What takes the memory of each GPU.")

    @classmethod
    def of(cls, fit: Fit) -> FitAnswer:
        """The answer for a decision."""
        return cls(
            precision=fit.precision,
            gradient_checkpointing=fit.gradient_checkpointing,
            dtype=fit.dtype,
            memory="host" if fit.on_cpu else "gpu",
            banner=fit.banner,
            vram_gib=round(fit.vram_bytes / GIB, 3),
            needed_gib=fit.needed_gib,
            headroom_gib=round(fit.headroom_gib, 3),
            items_gib={name: round(size / GIB, 4) for name, size in fit.items.items()},
        )


class BalanceImpact(Answer):
    """The balance gate: the balance now, less the upper bound, is what may be left."""

    balance: Money
    left: Money = Field(description="If the job costs its upper bound.")
    missing: Money = Field(description="What has to be topped up first; zero if nothing.")

    @classmethod
    def of(cls, balance_micros: int, estimate: Estimate) -> BalanceImpact:
        """The impact of an estimate on a balance."""
        left = balance_micros - estimate.high_micros
        return cls(
            balance=Money.of(balance_micros),
            left=Money.of(left, Toward.DOWN),
            missing=Money.of(max(0, -left), Toward.UP),
        )


class Place(Answer):
    """GPUs that are free."""

    region: str
    gpu_type: str
    free: int


class CapacityGate(Answer):
    """The capacity gate: what is free here, the wait, and what is free elsewhere."""

    is_open: bool = Field(description="Whether enough are free, or the job is to `wait` for them.")
    free: int
    needed: int
    wait_seconds: int | None = Field(description="Expected; 0: none, null: unknown.")
    elsewhere: list[Place]

    @classmethod
    def of(cls, loads: Sequence[PoolLoad], choices: Choices, waits: bool) -> CapacityGate:
        """The gate before a job's GPUs."""
        place, count = (choices.region, choices.gpu_type), choices.gpu_count
        here = next((each for each in loads if (each.region, each.gpu_type) == place), None)
        free = 0 if here is None else here.free
        wait = None if here is None else here.wait_seconds(count)
        return cls(
            is_open=waits or free >= count,
            free=free,
            needed=count,
            wait_seconds=None if wait is None else round(wait),
            elsewhere=[
                Place(region=each.region, gpu_type=each.gpu_type, free=each.free)
                for each in loads
                if each is not here and each.free >= count
            ],
        )


class QuoteAnswer(Answer):
    """All that the wizard shows before a job is approved."""

    region: str
    gpu_type: str
    fit: FitAnswer
    estimate: EstimateAnswer
    balance: BalanceImpact
    capacity: CapacityGate
    approvable: bool = Field(description="Whether both gates are open.")
    effective_batch: int = Field(description="Examples of a step, on all GPUs together.")
    truncated_examples: int = Field(
        description="Examples that are longer than what is trained on of each; about, as lengths "
        "are kept in a histogram."
    )
    truncation_warning: str | None = Field(
        description="If more than 5% of the examples are truncated: what is lost. Also among the "
        "`warnings`."
    )
    cautions: list[str] = Field(
        description="Hyperparameters that rarely work; also among `warnings`."
    )
    warnings: list[str]
