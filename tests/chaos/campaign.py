"""A campaign: rounds of faults, each on a fresh stack, with the oracle's judgment after each."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bus_administrator import as_administrator
from tests.chaos import failovers, oracle, records
from tests.chaos.chats import Chats
from tests.chaos.companion import Providers, running_providers
from tests.chaos.entry import lease_seconds
from tests.chaos.facts import REAL
from tests.chaos.failovers import Failovers, Takeovers
from tests.chaos.faults import Fault, Injector, planned
from tests.chaos.records import Place, Records
from tests.chaos.rig import LEADERS, Rig, Template
from tests.chaos.watcher import Watcher
from tests.chaos.workload import Workload

ROUND_FAULTS = 40
"""Faults on one stack, before its jobs settle and the oracle judges."""

REAL_EVERY = 5
"""In one of this many rounds, the jobs train a real model."""

WARM_UP_SECONDS = 6.0
SETTLE_SECONDS = 300.0
QUIET_SECONDS = 2.0

RECORDS = "records.json.gz"
"""File with the records of a round."""

Say = Callable[[str], None]


@dataclass
class Outcome:
    """Result of a campaign."""

    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    jobs: int = 0
    events: int = 0
    seconds: float = 0.0

    taken: Takeovers = field(default_factory=Takeovers)

    def add(self, other: Outcome) -> None:
        """Add the outcome of a round."""
        self.taken.add(other.taken)
        self.faults += other.faults
        self.violations += other.violations
        self.jobs, self.events = self.jobs + other.jobs, self.events + other.events
        self.seconds += other.seconds


@dataclass(frozen=True)
class Campaign:
    """The faults of a seed. `keep` is a directory for the records of rounds with violations."""

    seed: int
    template: Template
    directory: Path
    keep: Path
    say: Say = print
    settle_seconds: float = SETTLE_SECONDS
    fails_over: bool = False
    """True if the faults are failovers of leaders."""
    leaders: Sequence[str] = LEADERS
    """Services whose leaders fail over."""

    def _planned(self, numbers: range) -> list[Fault]:
        if self.fails_over:
            return list(failovers.planned(self.seed, numbers, lease_seconds(), self.leaders))
        return list(planned(self.seed, numbers))

    def run(self, faults: int) -> Outcome:
        """Inject faults 1 to `faults`. Return the outcome."""
        outcome = Outcome()
        for first in range(1, faults + 1, ROUND_FAULTS):
            numbers = range(first, min(faults, first + ROUND_FAULTS - 1) + 1)
            outcome.add(self.round(self._planned(numbers)))
        return outcome

    def replay(self, fault: int) -> Outcome:
        """Repeat the round of a fault, up to this fault."""
        first = (fault - 1) // ROUND_FAULTS * ROUND_FAULTS + 1
        return self.round(self._planned(range(first, fault + 1)))

    def round(self, faults: Sequence[Fault]) -> Outcome:
        """Inject some faults into a fresh stack. Return the outcome."""
        name = f"seed {self.seed}, faults {faults[0].number}-{faults[-1].number}"
        os.environ.pop(REAL, None)
        if (faults[0].number // ROUND_FAULTS + 1) % REAL_EVERY == 0:
            os.environ[REAL] = "1"
        began, place = time.monotonic(), self.directory / f"round-{faults[0].number}"
        place.mkdir()
        rig, taken = Rig(self.template, place, fails_over=self.fails_over), Takeovers()
        with rig.up():
            found, counted = self._inject(rig, faults, taken)
        broken = [*taken.failed, *oracle.violations(found)]
        violations = [f"{name}: {each}" for each in broken]
        for each in violations:
            self.say(f"VIOLATION {each}")
        if violations:
            self._keep(rig, found, name)
        shutil.rmtree(place)
        topics = Counter(each.topic for each in found.events)
        jobs, seconds = topics["JobApproved"], time.monotonic() - began
        self.say(
            f"{name}: {jobs} jobs, {len(found.tracked)} of them in the tracker, "
            f"{topics['ExportCompleted']} exports, {topics['DatasetCreated']} generated datasets, "
            f"{len(found.events)} events, {len(violations)} violations, {seconds:.0f} s"
        )
        return Outcome(counted, violations, jobs, len(found.events), seconds, taken)

    def _inject(
        self, rig: Rig, faults: Sequence[Fault], taken: Takeovers
    ) -> tuple[Records, Counter[str]]:
        with running_providers() as providers:
            return self._inject_beside(rig, faults, taken, providers)

    def _inject_beside(
        self, rig: Rig, faults: Sequence[Fault], taken: Takeovers, providers: Providers
    ) -> tuple[Records, Counter[str]]:
        injector, watcher, chats = Injector(rig), Watcher(rig), Chats.of(rig)
        if self.fails_over:
            inject = Failovers(rig, injector, taken, chats).inject
        else:
            inject = injector.inject
        # In failovers, processes have networks of their own, which providers are not part of.
        beside = None if self.fails_over else providers
        workload = Workload(rig, watcher, f"{self.seed}/{faults[0].number}", beside)
        losses: list[float] = []
        counted: Counter[str] = Counter()

        workload.start()
        if self.fails_over:  # otherwise serving does not run
            chats.start()
        try:
            injector.pause(WARM_UP_SECONDS, watcher.look)
            for fault in faults:
                injector.pause(fault.wait_seconds, watcher.look)
                happened = inject(fault)
                if fault.target.endswith("REPORTS"):
                    losses.append(time.time())
                counted[_sort(fault, happened)] += 1
                self.say(
                    f"seed {self.seed} fault {fault.number}: {fault}"
                    f"{f' ({happened})' if happened else ''}"
                )
            unsettled = self._settle(injector, watcher, workload)
        finally:
            injector.end_all()
            workload.abandon()
            chats.end()
        if self.fails_over:
            self.say(chats.line())
            taken.failed += chats.violations()
        found = records.read(_place(rig), losses, unsettled)
        found.tracked = {
            row["job_id"]: providers.steps_of(row["job_id"]) for row in found.tables["tracked_runs"]
        }
        return found, counted

    def _settle(self, injector: Injector, watcher: Watcher, workload: Workload) -> str:
        """Wait until all jobs have ended and all consumers have caught up. Return what has not.

        The wait ends when nothing progresses, because a real model trains slowly on a busy machine.
        """
        injector.end_all()
        workload.finish()
        quiet_since: float | None = None
        position = -1

        def settled() -> bool:
            nonlocal quiet_since, position
            watcher.look()
            calm = workload.done and not watcher.open_meters and watcher.position == position
            calm = calm and watcher.lag() == 0 and watcher.unsent() == 0
            position = watcher.position
            now = time.monotonic()
            quiet_since = (quiet_since or now) if calm else None
            return quiet_since is not None and now - quiet_since > QUIET_SECONDS

        progress: tuple[int, int] | None = None
        while progress != watcher.progress:
            progress = watcher.progress
            if injector.pause(self.settle_seconds, settled):
                return ""
        running = [
            f"{id} is {job.status}"
            for id, job in watcher.jobs.items()
            if job.status not in ("registered", "cancelled", "failed")
        ]
        return (
            f"after {self.settle_seconds:.0f} s without progress, "
            f"{len(watcher.open_meters)} meters are open, the slowest consumer is "
            f"{watcher.lag()} events behind, trackers lack {watcher.unsent()} measurements, "
            f"the other work has {'ended' if workload.done else 'not ended'}, jobs: {running}"
        )

    def _keep(self, rig: Rig, found: Records, name: str) -> None:
        target = self.keep / name.replace(", ", "-").replace(" ", "-")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        found.dump(target / RECORDS)
        shutil.copytree(rig.logs, target / "logs")
        self.say(f"records and logs are in {target}")


def _sort(fault: Fault, happened: str) -> str:
    """Return the kind of a fault, for the summary."""
    if happened.startswith(("not running", "not possible", "failed")):
        return "without effect"
    if happened.startswith("not reached"):
        return "kill (failpoint not reached)"
    if fault.armed is not None:
        return f"failpoint: {fault.armed.action}"
    return fault.kind


def _place(rig: Rig) -> Place:
    settings = as_administrator(rig.settings)
    assert settings.database_url is not None
    assert settings.nats_url is not None
    assert settings.nats_credentials is not None
    return Place(
        settings.database_url,
        settings.nats_url,
        settings.nats_credentials,
        rig.home / "artifacts",
        rig.control,
    )
