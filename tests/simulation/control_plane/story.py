"""A run of a story: its operations, then a calm time in which every job must end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from eventsourcing.persistence import Notification

from tests.simulation.control_plane.operations import FAULTS, SECOND_MICROS, Operation, generated
from tests.simulation.control_plane.world import World

LENGTH = 120
CALM_SECONDS, MOST_CALM_ROUNDS = 20, 300

Broken = Callable[[], AbstractContextManager[object]]
"""A function that returns a context in which a rule of the product is broken on purpose."""


@dataclass
class Outcome:
    """What a run showed."""

    violations: list[str]
    log: bytes
    """The whole log, to compare two runs."""
    events: list[str]
    """Its events in words."""
    lifetimes: int
    seconds: float
    happened: Counter[str] = field(default_factory=Counter)
    ran: int = 0
    """Operations before the first violation."""

    @property
    def faults(self) -> dict[str, int]:
        return {name: count for name, count in self.happened.items() if name in FAULTS}


def played(operations: Sequence[Operation], broken: Broken = nullcontext) -> Outcome:
    """Run operations until the first violation, or until every job has ended."""
    world, ran = World(), 0
    with broken(), world.running():
        set_up(world)
        for each in operations:
            each.apply(world)
            ran += 1
            if world.rules.violations:
                break
        else:
            end(world)
        rules = world.rules
        return Outcome(
            violations=list(rules.violations),
            log=world.shared.text(),
            lifetimes=sum(job.final is not None for job in rules.jobs.values()),
            events=[worded(each) for each in world.shared.notifications],
            seconds=world.kernel.now,
            happened=world.happened,
            ran=ran,
        )


def played_seed(seed: int, length: int = LENGTH, broken: Broken = nullcontext) -> Outcome:
    """Run the story of a seed."""
    return played(generated(seed, length), broken)


UNTOLD = frozenset(
    (
        *("account_id", "actor", "command_id", "causation_id", "timestamp", "class_version"),
        *("plan", "estimate", "manifest_sha256", "train_loss", "total_bytes", "phase_seconds"),
    )
)
"""Fields of events that a story does not need."""


def worded(row: Notification) -> str:
    """Return an event as a line: its ID, time, aggregate, topic, and the fields that say most."""
    state = json.loads(row.state)
    told = [
        f"{name}={value}"
        for name, value in state.items()
        if name not in UNTOLD and value not in (None, [], {}, "")
    ]
    moment = state["timestamp"][11:19]
    return f"{row.id:>5} {moment} {str(row.originator_id)[:8]} {row.topic} {' '.join(told)}"


def set_up(world: World) -> None:
    """Open two accounts with money, and offer eight GPUs."""
    for _ in range(2):
        world.open_account()
    world.declare_capacity(8)
    for account_id in world.accounts:
        world.top_up(account_id, 4_000 * SECOND_MICROS)
    world.run(2)


def end(world: World) -> None:
    """End all faults and limits, and pay until every job has ended. Then check the rest."""
    world.heal()
    world.run(CALM_SECONDS)
    for _ in range(MOST_CALM_ROUNDS):
        world.lift_limits()
        world.run(CALM_SECONDS)
        if world.is_at_rest or world.rules.violations:
            break
    if not world.rules.violations:
        world.check_end()
