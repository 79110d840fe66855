"""Schemas of quotes: memory, estimate, balance and capacity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from pydantic import Field

from domain.billing.budget import BudgetPeriod
from domain.capacity.availability import PoolLoad
from domain.core.money import SECONDS_PER_HOUR, Toward, exact_dollars, in_cents
from domain.core.quantities import GIB
from domain.estimating.estimate import Estimate, PhaseEstimate
from domain.estimating.memory import Fit
from domain.jobs.choices import Choices
from domain.training.phases import Phase
from domain.training.precision import Dtype, Precision
from domain.use_cases.spending_limits import BudgetNotice, CostRange, Outlook
from gateway.schemas import Money, ResponseModel


class PhaseResponse(ResponseModel):
    """Duration and cost of a phase."""

    phase: Phase
    low_seconds: float
    high_seconds: float
    low: Money
    high: Money

    @classmethod
    def of(cls, estimate: Estimate, priced: PhaseEstimate) -> PhaseResponse:
        rate_micros_per_hour, lowest = estimate.rate_micros_per_hour, estimate.lowest(priced)

        def cost(seconds: float, toward: Toward) -> Money:
            return Money.of(round(rate_micros_per_hour * seconds / SECONDS_PER_HOUR), toward)

        return cls(
            phase=priced.phase,
            low_seconds=round(lowest, 1),
            high_seconds=round(priced.high_seconds, 1),
            low=cost(lowest, Toward.DOWN),
            high=cost(priced.high_seconds, Toward.UP),
        )


class CostRangeResponse(ResponseModel):
    """Estimated range of duration and cost. The upper bound has at least 30% headroom."""

    low_seconds: int
    high_seconds: int
    low: Money
    high: Money
    rate_per_hour: Money
    tokens: int = Field(examples=[184_000], description="Tokens in all epochs, after truncation.")
    total_steps: int = Field(examples=[225])
    calibrated_from: int = Field(description="Number of finished jobs that the estimate uses.")
    basis: str = Field(
        description="Sentence about the source of the estimate: finished jobs, a speed test of "
        "the machine, or the catalog. It also says if other jobs or a busy machine widen the range."
    )
    phases: list[PhaseResponse]

    @classmethod
    def of(cls, estimate: Estimate) -> CostRangeResponse:
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
            phases=[PhaseResponse.of(estimate, each) for each in estimate.phases],
        )


class FitResponse(ResponseModel):
    """Precision and predicted memory of a job on a GPU."""

    precision: Precision
    gradient_checkpointing: bool
    dtype: Dtype = Field(
        description="Data type of the computation, and of the base model unless it is in 4 bits."
    )
    memory: Literal["gpu", "host"] = Field(
        description="Kind of the predicted memory. `gpu` is the memory that the job uses on each "
        "GPU. `host` is the host memory that the model uses, without the program itself."
    )
    banner: str = Field(
        examples=[
            (
                "The base model fits in full precision (bf16), without 4-bit quantization. "
                "The job needs 21.5 of 80 GiB on each GPU."
            )
        ],
        description="Sentence about the chosen precision.",
    )
    vram_gib: float
    needed_gib: float = Field(description="Sum of the items, rounded up as in the banner.")
    headroom_gib: float
    items_gib: dict[str, float] = Field(description="Memory of each GPU by use.")

    @classmethod
    def of(cls, fit: Fit) -> FitResponse:
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


class BalanceImpact(ResponseModel):
    """Effect on the balance, which must cover the highest cost."""

    balance: Money
    needed: Money = Field(
        description="Highest cost: the upper bound of the estimate, or the maximum cost if that is "
        "lower."
    )
    capped: bool = Field(description="True if the maximum cost is below the upper bound.")
    left: Money = Field(description="Balance after a job with the highest cost.")
    missing: Money = Field(description="Top-up that the job requires, or zero.")

    @classmethod
    def of(cls, balance_micros: int, cost: CostRange) -> BalanceImpact:
        left = balance_micros - cost.high_micros
        # The amounts add up as shown. A difference of rounded amounts may be a cent off.
        shown = in_cents(balance_micros) - in_cents(cost.high_micros, Toward.UP)
        return cls(
            balance=Money.of(balance_micros),
            needed=Money.of(cost.high_micros, Toward.UP),
            capped=cost.capped,
            left=Money(micros=left, text=exact_dollars(shown)),
            missing=Money.of(max(0, -left), Toward.UP),
        )


class BudgetNoticeResponse(ResponseModel):
    """A budget that the job may reach, or of which at least 80% are used."""

    period: BudgetPeriod
    key_id: UUID | None = Field(
        description="The API key that you use, or null for a budget for all jobs."
    )
    limit: Money
    left: Money = Field(description="Running jobs may use parts of it.")
    outlook: Outlook = Field(
        description="`used_up`: the budget does not pay for the first minute, so you cannot "
        "approve the job. `reached`: the job pauses at the budget. `possible`: it pauses if it "
        "costs its upper bound. `nearly_used`: it pauses only if other jobs use the rest."
    )
    text: str = Field(description="A sentence about it; also in `warnings`.")

    @classmethod
    def of(cls, notice: BudgetNotice) -> BudgetNoticeResponse:
        budget = notice.budget
        return cls(
            period=budget.period,
            key_id=budget.key_id,
            limit=Money.price(budget.limit_micros),
            left=Money.of(budget.left_micros, Toward.DOWN),
            outlook=notice.outlook,
            text=notice.text,
        )


class Place(ResponseModel):
    """Free GPUs of one type in one region."""

    region: str = Field(examples=["local"])
    gpu_type: str = Field(examples=["cpu"])
    free: int


class CapacityGate(ResponseModel):
    """Free GPUs and the expected wait. Enough GPUs must be free, or `wait` must be set."""

    is_open: bool = Field(description="True if enough GPUs are free, or if `wait` is set.")
    free: int
    needed: int
    wait_seconds: int | None = Field(description="Expected wait, or null if unknown.")
    elsewhere: list[Place]

    @classmethod
    def of(cls, loads: Sequence[PoolLoad], choices: Choices, waits: bool) -> CapacityGate:
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


class JobEstimateResponse(ResponseModel):
    """A quote: memory, estimate, balance, capacity and warnings."""

    region: str = Field(examples=["local"])
    gpu_type: str = Field(examples=["cpu"])
    fit: FitResponse
    estimate: CostRangeResponse
    balance: BalanceImpact
    budgets: list[BudgetNoticeResponse] = Field(
        description="Budgets for all jobs or for the API key that you use, if the job may reach "
        "them or if they are nearly used."
    )
    capacity: CapacityGate
    price_note: str | None = Field(
        description="The most that you pay, in words. Null if only the balance limits the cost."
    )
    approvable: bool = Field(description="True if balance, budgets and capacity permit approval.")
    effective_batch: int = Field(description="Examples in a step, on all GPUs.")
    truncated_examples: int = Field(
        description="Approximate number of examples that are truncated."
    )
    truncation_warning: str | None = Field(
        description="A warning if more than 5% of the examples are truncated; also in `warnings`."
    )
    cautions: list[str] = Field(
        description="Warnings about hyperparameters that rarely work; also in `warnings`."
    )
    dataset_warnings: list[str] = Field(
        default=[],
        description="Warnings about near-duplicates, and about examples that the training and the "
        "validation dataset share; also in `warnings`.",
    )
    warnings: list[str]
