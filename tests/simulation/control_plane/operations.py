"""The operations of a story: what users, operators and faults do, with all their parameters.

A seed determines a list of operations. An operation names its objects by numbers that are taken
modulo what exists, so that any part of a list is a story too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from domain.billing.budget import BudgetName, BudgetPeriod
from domain.billing.suspension import SuspensionReason
from domain.core.money import charge_micros
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job
from domain.training.training_plan import Order
from infrastructure.bus.streams import EVENTS, REPORTS
from tests.simulation.control_plane.cluster import Trainer, Work
from tests.simulation.control_plane.kernel import Pause
from tests.simulation.control_plane.world import (
    FREEZE,
    GATEWAY,
    KILL,
    LOSE_ANSWER,
    Fault,
    World,
    plan_of,
)

RATES = [3_600_000, 5_400_001, 1_234_567]
"""Micro-dollars per hour, also such that seconds round."""

SECOND_MICROS = 1_500
"""At least the price of a GPU-second."""

POINTS = {
    "billing": ["before commit", "after commit", "before ack", "database statement"],
    "scheduler": [
        *("before commit", "after commit", "before ack", "before publish", "before file"),
        "database statement",
    ],
    "relay": ["before publish", "after publish"],
    "projector": ["database before commit", "database after commit", "before ack"],
}
"""The points at which a process of a service can be killed or frozen."""

PLACES = [f"{service}: {point}" for service, points in POINTS.items() for point in points]
FREEZING_PLACES = [each for each in PLACES if not each.endswith("database before commit")]
"""A process cannot freeze inside a transaction of SQLite, which has one connection."""
DURABLES = [
    *("billing", "scheduler", "projections"),
    *("scheduler-reports", "billing-evidence"),
]

Choices = list[Any] | tuple[int, int]
"""All values of a parameter, or the bounds of an integer."""


@dataclass(frozen=True)
class Kind:
    """A kind of operations: its effect, its share of a story, and its parameters."""

    name: str
    weight: int
    sentence: str
    apply: Callable[..., object]
    parameters: dict[str, Choices]
    is_fault: bool


@dataclass(frozen=True)
class Operation:
    """An operation with the values of its parameters."""

    kind: Kind
    values: tuple[tuple[str, Any], ...]

    def apply(self, world: World) -> None:
        world.happened[self.kind.name] += 1
        self.kind.apply(world, **dict(self.values))

    def __str__(self) -> str:
        return self.kind.sentence.format(**dict(self.values))


KINDS: list[Kind] = []


def operation(weight: int, sentence: str, *, fault: bool = False, **parameters: Choices) -> Any:
    """Declare a kind of operations. Its name is that of the function."""

    def declare(apply: Callable[..., object]) -> Callable[..., object]:
        name = apply.__name__.replace("_", " ")
        KINDS.append(Kind(name, weight, sentence, apply, parameters, fault))
        return apply

    return declare


def generated(seed: int, length: int) -> list[Operation]:
    """Return the operations of a seed."""
    chance = random.Random(seed)
    # Each story has its own mix, so that some are calm and some are full of one kind of fault.
    weights = [each.weight * chance.choice([0, 1, 1, 3]) for each in KINDS]
    weights = [
        each.weight if each.name in ("run", "approve") else weight
        for each, weight in zip(KINDS, weights, strict=True)
    ]
    kinds = chance.choices(KINDS, weights, k=length)
    return [
        Operation(
            kind, tuple((name, _drawn(chance, each)) for name, each in kind.parameters.items())
        )
        for kind in kinds
    ]


def _drawn(chance: random.Random, choices: Choices) -> Any:
    return chance.randint(*choices) if isinstance(choices, tuple) else chance.choice(choices)


def _job(world: World, number: int) -> Job | None:
    if not world.jobs:
        return None
    return world.log_of_simulation.find(Job, world.jobs[-1 - number % len(world.jobs)])


def _trainer(world: World, number: int) -> Trainer | None:
    running = world.cluster.running()
    return running[number % len(running)] if running else None


# Time


@operation(110, "{seconds} s pass.", seconds=[1, 3, 10, 10, 25, 40])
def run(world: World, seconds: int) -> None:
    world.run(seconds)


# Users


@operation(
    60,
    "Account {account} approves {jobs} job(s) of {steps} steps on {gpus} GPU(s) at {rate} "
    "micro-dollars per hour, for at most {limit} s (0: no maximum). A step takes {slowdown} times "
    "as long as estimated.",
    account=(0, 1),
    jobs=(1, 6),
    steps=(1, 8),
    gpus=[1, 1, 1, 2],
    rate=RATES,
    limit=[0, 0, 0, 7, 45, 200],
    by_key=[True, False],
    slowdown=[1, 1, 1, *range(2, 11)],
)
def approve(world: World, account: int, jobs: int, steps: int, by_key: bool, **chosen: int) -> None:
    rate, limit = chosen["rate"], chosen["limit"]
    plan = plan_of(chosen["gpus"], rate)
    order = Order(max_cost_micros=charge_micros(rate, limit) if limit else None)
    work = Work(steps, slowdown=chosen["slowdown"])
    for _ in range(jobs):
        world.approve(world.accounts[account], plan, work, order, by_key=by_key)


JOB: Choices = (0, 9)


@operation(8, "The owner pauses job {job}.", job=JOB)
def pause(world: World, job: int) -> None:
    if found := _job(world, job):
        world.command_job(found.id, "pause")


@operation(14, "The owner resumes job {job} on {gpus} GPU(s).", job=JOB, gpus=[1, 1, 2])
def resume(world: World, job: int, gpus: int) -> None:
    if found := _job(world, job):
        options = {"wait": True, "loads": list, "gpu_count": gpus}
        world.command_job(found.id, "resume", by_key=job % 2 == 0, **options)


@operation(4, "The owner cancels job {job}.", job=JOB)
def cancel(world: World, job: int) -> None:
    if found := _job(world, job):
        world.command_job(found.id, "cancel")


@operation(3, "The owner promotes job {job}.", job=JOB)
def promote(world: World, job: int) -> None:
    if found := _job(world, job):
        world.command_job(found.id, "promote")


@operation(
    5, "The owner sets the maximum cost of job {job} to {seconds} s.", job=JOB, seconds=(1, 200)
)
def change_maximum(world: World, job: int, seconds: int) -> None:
    if found := _job(world, job):
        micros = charge_micros(found.rate_micros_per_hour, seconds)
        world.command_job(found.id, "change_max_cost", max_cost_micros=micros)


@operation(
    14, "Account {account} pays for {seconds} GPU-seconds.", account=(0, 1), seconds=(1, 400)
)
def top_up(world: World, account: int, seconds: int) -> None:
    world.top_up(world.accounts[account], seconds * SECOND_MICROS)


@operation(4, "A bank takes back {percent}% of payment {payment}.", payment=JOB, percent=(1, 100))
def dispute(world: World, payment: int, percent: int) -> None:
    world.take_back(payment, percent)


@operation(
    4, "The operator refunds {percent}% of payment {payment}.", payment=JOB, percent=(1, 100)
)
def refund(world: World, payment: int, percent: int) -> None:
    world.refund(payment, percent)


@operation(3, "The provider refuses refund {refund}.", refund=JOB)
def refuse_refund(world: World, refund: int) -> None:
    world.fail_refund(refund)


PERIODS = [BudgetPeriod.DAY, BudgetPeriod.MONTH]


@operation(
    4,
    "Account {account} sets a budget of {seconds} GPU-seconds a {period} (of its key: {of_key}).",
    account=(0, 1),
    seconds=(1, 500),
    period=PERIODS,
    of_key=[True, False],
)
def set_budget(
    world: World, account: int, seconds: int, period: BudgetPeriod, of_key: bool
) -> None:
    id = world.accounts[account]
    name = BudgetName(period, world.keys[id] if of_key else None)
    world.do("account", lambda: world.use.set_budget(id, name, seconds * SECOND_MICROS))


@operation(3, "Account {account} removes its budgets.", account=(0, 1))
def remove_budgets(world: World, account: int) -> None:
    world.remove_budgets(world.accounts[account])


@operation(3, "The operator suspends account {account}.", account=(0, 1))
def suspend(world: World, account: int) -> None:
    id = world.accounts[account]
    world.do("operator", lambda: world.use.suspend(id, SuspensionReason.PAYMENT))


@operation(5, "The operator reinstates account {account}.", account=(0, 1))
def reinstate(world: World, account: int) -> None:
    id = world.accounts[account]
    world.do("operator", lambda: world.use.reinstate(id))


@operation(5, "The operator offers {gpus} GPUs.", gpus=(0, 8))
def change_capacity(world: World, gpus: int) -> None:
    world.declare_capacity(gpus)


# Faults of processes


@operation(
    24,
    "A process is killed ({place}, after {after} others).",
    fault=True,
    place=PLACES,
    after=(0, 4),
)
def kill(world: World, place: str, after: int) -> None:
    service, point = place.split(": ")
    world.armed[service, point] = Fault(KILL, after)


@operation(
    16,
    "A process freezes for {seconds} s ({place}, after {after} others); a standby takes the lead.",
    fault=True,
    place=FREEZING_PLACES,
    after=(0, 3),
    seconds=[3, 20, 45],
)
def freeze(world: World, place: str, after: int, seconds: int) -> None:
    service, point = place.split(": ")
    world.armed[service, point] = Fault(FREEZE, after, seconds)


@operation(
    8,
    "The gateway waits {seconds} s before its commit.",
    fault=True,
    seconds=[1, 5, 30],
)
def delay_command(world: World, seconds: int) -> None:
    world.armed[GATEWAY, "before commit"] = Fault(FREEZE, 0, seconds)


@operation(
    12,
    "The answer to a commit of {service} is lost (after {after} others).",
    fault=True,
    service=["billing", "scheduler", GATEWAY],
    after=(0, 3),
)
def lose_answer(world: World, service: str, after: int) -> None:
    world.armed[service, "after commit"] = Fault(LOSE_ANSWER, after)


# Faults of servers


@operation(5, "The database is away for {seconds} s.", fault=True, seconds=[1, 10, 60])
def lose_database(world: World, seconds: int) -> None:
    world.store_away_until = world.kernel.now + seconds


@operation(5, "The bus is away for {seconds} s.", fault=True, seconds=[1, 10, 60])
def lose_bus(world: World, seconds: int) -> None:
    world.bus.away_until = world.kernel.now + seconds


@operation(5, "The artifact store is away for {seconds} s.", fault=True, seconds=[1, 10, 60])
def lose_files(world: World, seconds: int) -> None:
    world.files.away_until = world.kernel.now + seconds


@operation(4, "The artifact store is full for {seconds} s.", fault=True, seconds=[10, 60])
def fill_files(world: World, seconds: int) -> None:
    world.files.full_until = world.kernel.now + seconds


@operation(4, "The stream {stream} is deleted.", fault=True, stream=[EVENTS, EVENTS, REPORTS])
def delete_stream(world: World, stream: str) -> None:
    world.bus.delete(stream)


@operation(
    5,
    "The stream {stream} loses its last {count} messages.",
    fault=True,
    stream=[EVENTS, REPORTS],
    count=(1, 10),
)
def lose_end_of_stream(world: World, stream: str, count: int) -> None:
    world.bus.lose_end(stream, count)


@operation(
    8,
    "{durable} gets its last {count} messages again.",
    fault=True,
    durable=DURABLES,
    count=(1, 20),
)
def repeat_messages(world: World, durable: str, count: int) -> None:
    if found := world.bus.durables.get(durable):
        found.repeat(count)


@operation(
    8, "{durable} gets its messages in another order.", fault=True, durable=DURABLES, seed=(1, 999)
)
def shuffle_messages(world: World, durable: str, seed: int) -> None:
    if found := world.bus.durables.get(durable):
        found.shuffle(seed)


@operation(
    10,
    "Some messages of {durable} are {seconds} s late.",
    fault=True,
    durable=DURABLES,
    seed=(1, 999),
    seconds=[1, 5, 30],
)
def delay_messages(world: World, durable: str, seed: int, seconds: int) -> None:
    if found := world.bus.durables.get(durable):
        found.hold(seed)

        async def release() -> None:
            await Pause(seconds)
            found.release()

        world.kernel.spawn(world.supervisor, release())


# Faults of clocks and trainers


@operation(
    5,
    "The clock of the {which} is wrong by {seconds} s.",
    fault=True,
    which=["service", "database"],
    seconds=[-100, -15, 0, 0, 15, 100],
)
def jump_clock(world: World, which: str, seconds: int) -> None:
    world.jump(which, seconds)


TRAINER: Choices = (0, 9)


@operation(
    6,
    "Trainer {trainer} reports nothing for {seconds} s.",
    fault=True,
    trainer=TRAINER,
    seconds=[15, 60],
)
def mute(world: World, trainer: int, seconds: int) -> None:
    if found := _trainer(world, trainer):
        found.is_muted_until = world.kernel.now + seconds


@operation(
    5,
    "Trainer {trainer} freezes for {seconds} s.",
    fault=True,
    trainer=TRAINER,
    seconds=[5, 30, 120],
)
def freeze_trainer(world: World, trainer: int, seconds: int) -> None:
    if found := _trainer(world, trainer):
        found.freeze(seconds)


@operation(3, "Trainer {trainer} hears nothing.", fault=True, trainer=TRAINER)
def deafen(world: World, trainer: int) -> None:
    if found := _trainer(world, trainer):
        found.is_deaf = True


@operation(
    4, "Trainer {trainer} does not save at the end of its lease.", fault=True, trainer=TRAINER
)
def overrun(world: World, trainer: int) -> None:
    if found := _trainer(world, trainer):
        found.overruns = True


@operation(
    6,
    "Trainer {trainer} exits with {code} (None: its node is lost).",
    fault=True,
    trainer=TRAINER,
    code=[None, 1, 5, -9],
)
def crash(world: World, trainer: int, code: int | None) -> None:
    if found := _trainer(world, trainer):
        found.end(code)


@operation(
    3,
    "Trainer {trainer} fails: {failure}.",
    fault=True,
    trainer=TRAINER,
    failure=[FailureClass.BAD_DATA, FailureClass.LOSS_DIVERGED, FailureClass.DISK_FULL],
)
def fail(world: World, trainer: int, failure: FailureClass) -> None:
    if found := _trainer(world, trainer):
        found.failure = failure


@operation(
    4,
    "Trainer {trainer} reports times that are wrong by {seconds} s.",
    fault=True,
    trainer=TRAINER,
    seconds=[-60, -5, 5, 60],
)
def misreport(world: World, trainer: int, seconds: int) -> None:
    if found := _trainer(world, trainer):
        found.misreport(seconds)


@operation(4, "The newest checkpoint of job {job} is damaged.", fault=True, job=JOB)
def damage_checkpoint(world: World, job: int) -> None:
    found = _job(world, job)
    if found is not None and found.checkpoints.newest is not None:
        world.files.damage(found.checkpoints.newest.ref)


@operation(3, "The next {count} launches fail.", fault=True, count=(1, 2))
def fail_launches(world: World, count: int) -> None:
    world.cluster.fails += count


FAULTS = frozenset(each.name for each in KINDS if each.is_fault)

Story = Sequence[Operation]
