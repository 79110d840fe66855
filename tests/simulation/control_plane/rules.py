"""Rules that hold after every commit and at the end, from stored rows and plain facts.

This module imports nothing of the product: it states the rules a second time, so that an error in
the first shows. A row is a stored event as JSON. Physical facts come from the trainers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, NamedTuple, Protocol

from tests.simulation.oracle import cost

Segment = tuple[str, int]
"""A job's ID and the number of the segment."""

PAID_BY_PLATFORM = frozenset(
    (
        *("out_of_memory", "node_lost", "disk_full", "trainer_crashed"),
        *("model_load_failed", "checkpoint_mismatch", "timeout"),
    )
)
NEVER_RETRIED = frozenset(("out_of_memory", "bad_data", "loss_diverged", "checkpoint_mismatch"))
RETRIES = 3
FACTOR = 3
"""Multiple of the estimated upper time after which a job pauses."""

OVERRUN = 4
"""Exit code of a trainer that did not save within the grace period after its lease."""

FINAL = {
    "Registered": "registered",
    "JobFailed": "failed",
    "JobCancelled": "cancelled",
}


class Row(NamedTuple):
    """A stored event."""

    id: int
    originator: str
    version: int
    topic: str
    state: Mapping[str, Any]


class Fact(Protocol):
    """The truth about a trainer. Times are whole seconds of its segment."""

    told: int
    worked: int
    report_was_ahead: bool
    report_was_wrong: bool
    exit_code: int | None
    clock_was_ahead: bool
    clock_was_wrong: bool
    seconds_since_launch: float


@dataclass
class Bill:
    """A segment and its bill so far, from rows."""

    account: str
    rate: int
    stop_asked: bool = False
    opened: bool = False
    refused: bool = False
    paid: int = 0
    billed: int = 0
    credited: int = 0  # micro-dollars
    closed: bool = False
    ended: Mapping[str, Any] | None = None
    kept: int | None = None
    """Seconds that the user pays for; None: all."""
    lasted: int = 0
    """True seconds from the launch to the end in the log."""
    limit: int | None = None
    """Micro-dollars at which the guarantee begins to cover the time; None: no guarantee."""

    @property
    def charged_seconds(self) -> int | None:
        """Seconds that are charged at most; None: all."""
        if self.limit is None:
            return None
        seconds = self.limit * 3600 // self.rate
        while cost(self.rate, seconds + 1) <= self.limit:
            seconds += 1
        while seconds and cost(self.rate, seconds) > self.limit:
            seconds -= 1
        return seconds

    def charge(self, seconds: int) -> int:
        """Micro-dollars of the first seconds, less what the guarantee covers."""
        charged = self.charged_seconds
        return cost(self.rate, seconds if charged is None else min(seconds, charged))

    @property
    def held(self) -> int:
        return 0 if self.closed else self.charge(self.paid) - self.charge(self.billed)

    @property
    def used(self) -> int:
        """Seconds that count towards the guarantee, once the segment ended."""
        if self.ended is None:
            return self.billed
        return self.ran if self.kept is None else min(self.kept, self.ran)

    @property
    def ran(self) -> int:
        """Seconds until the end of the paid time."""
        ended = self.ended
        return 0 if ended is None else max(0, ended["elapsed_seconds"] - ended["grace_seconds"])


@dataclass
class JobFacts:
    """A job, from rows."""

    account: str
    count: int
    segment: int = 0
    running: bool = False
    stop_asked: bool = False
    final: str | None = None
    paused: str | None = None
    crashes: int = 0
    furthest_step: int = 0
    rate: int = 0
    had_maximum: bool = False
    guarantee: Mapping[str, int] | None = None
    poorest: int | None = None
    """Lowest available balance of its account since it was last approved, resumed or launched."""
    saved: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Segment and seconds of each checkpoint that is neither rejected nor pruned."""
    commands: set[str] = field(default_factory=set)

    def note_available(self, micros: int) -> None:
        self.poorest = micros if self.poorest is None else min(self.poorest, micros)

    def saved_seconds(self, segment: int) -> int:
        return max((each[1] for each in self.saved.values() if each[0] == segment), default=0)


@dataclass
class Money:
    """Micro-dollars of an account."""

    balance: int = 0
    reserved: int = 0
    was_suspended: bool = False
    had_budget: bool = False
    jobs: list[JobFacts] = field(default_factory=list)
    open: set[Segment] = field(default_factory=set)


@dataclass
class PoolFacts:
    """GPUs of a pool."""

    capacity: int = 0
    lowest: int | None = None
    """Lowest capacity so far."""
    held: dict[Segment, int] = field(default_factory=dict)


@dataclass
class Rules:
    """All rules. `fact_of` returns the trainer of a segment; `evidence` what anybody saw of it."""

    fact_of: Callable[[Segment], Fact | None]
    evidence: Callable[[Segment], int]
    minute: int
    """Length of a metered minute, seconds."""
    violations: list[str] = field(default_factory=list)
    accounts: dict[str, Money] = field(default_factory=dict)
    bills: dict[Segment, Bill] = field(default_factory=dict)
    jobs: dict[str, JobFacts] = field(default_factory=dict)
    pools: dict[str, PoolFacts] = field(default_factory=dict)
    effects: dict[str, int] = field(default_factory=dict)
    """First row ID of the commit of each effect of an event handler."""
    event_ids: dict[int, str] = field(default_factory=dict)
    topics: dict[int, str] = field(default_factory=dict)
    answered: dict[str, frozenset[str]] = field(default_factory=dict)
    """Topics of the events that each service handles."""
    handled: dict[str, set[int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def require(self, holds: bool, rule: str, row: Row | None = None) -> None:
        """Record a violation unless a rule holds."""
        if not holds:
            where = "" if row is None else f" (event {row.id}, {row.topic} of {row.originator})"
            self.violations.append(f"{rule}{where}")

    def command(self, job: str, command: str) -> None:
        """Note a command of a job's owner, before it is carried out."""
        if job in self.jobs:
            self.jobs[job].commands.add(command)

    # One commit

    def see(self, rows: Sequence[Row]) -> None:
        """Check the rows of one transaction."""
        touched: set[str] = set()
        sums: Counter[tuple[str, str]] = Counter()
        for row in rows:
            self.counts[row.topic] += 1
            self.event_ids[row.id] = f"{row.originator}:{row.version}"
            self.topics[row.id] = row.topic
            self._check_effect(row, rows[0].id)
            self._apply(row, sums)
            touched.add(str(row.state["account_id"]))
        for account in touched & self.accounts.keys():
            minutes, captured = sums[account, "minutes"], sums[account, "captured"]
            self.require(minutes == captured, f"charges of {account} differ from its minutes")
            credited, reversed_ = sums[account, "credited"], sums[account, "reversed"]
            self.require(credited == reversed_, f"credits of {account} differ from its meters'")
            money = self.accounts[account]
            for job in money.jobs:
                job.note_available(money.balance - money.reserved)
            held = sum(self.bills[each].held for each in money.open)
            self.require(money.reserved == held, f"the reserve of {account} is not {held}")
            self.require(
                0 <= money.reserved <= money.balance,
                f"{account} has reserved {money.reserved} of {money.balance} micro-dollars",
            )
        for pool in self.pools.values():
            for segment in pool.held:
                job = self.jobs[segment[0]]
                self.require(
                    job.running and job.segment == segment[1],
                    f"GPUs are held by segment {segment[1]} of {segment[0]}, which does not run",
                )

    def _check_effect(self, row: Row, commit: int) -> None:
        """An event handler's events come in one commit, caused by the event that it handled."""
        service, _, position = str(row.state["command_id"]).partition(":")
        if service not in ("billing", "scheduler") or not position.isdigit():
            return
        first = self.effects.setdefault(row.state["command_id"], commit)
        self.require(first == commit, f"the effect of event {position} was saved twice", row)
        cause = self.event_ids.get(int(position))
        self.require(row.state["causation_id"] == cause, "the cause is another event", row)

    def _apply(self, row: Row, sums: Counter[tuple[str, str]]) -> None:
        apply = getattr(self, f"_{row.topic}", None)
        if apply is not None:
            apply(row, row.state)
        state = row.state
        account = str(state["account_id"])
        match row.topic:
            case "MinuteMetered":
                sums[account, "minutes"] += state["amount_micros"]
            case "UsageSettled":
                sums[account, "captured"] += state["captured_micros"]
            case "LostWorkCredited":
                sums[account, "credited"] += state["amount_micros"]
            case "ChargeReversed":
                sums[account, "reversed"] += state["amount_micros"]
            case _:
                pass

    # Money

    def _AccountOpened(self, row: Row, state: Mapping[str, Any]) -> None:
        self.accounts[row.originator] = Money()

    def _pay(self, row: Row, state: Mapping[str, Any]) -> None:
        self.accounts[row.originator].balance += state["amount_micros"]

    _CreditGranted = _ToppedUp = _TopUpRestored = _ChargeReversed = _pay

    def _TopUpWithheld(self, row: Row, state: Mapping[str, Any]) -> None:
        self.accounts[row.originator].balance -= state["amount_micros"]

    def _AccountSuspended(self, row: Row, state: Mapping[str, Any]) -> None:
        self.accounts[row.originator].was_suspended = True

    def _BudgetSet(self, row: Row, state: Mapping[str, Any]) -> None:
        self.accounts[row.originator].had_budget = True

    def _UsageSettled(self, row: Row, state: Mapping[str, Any]) -> None:
        money = self.accounts[row.originator]
        money.balance -= state["captured_micros"]
        money.reserved += state["reserved_micros"] - state["captured_micros"]

    # Meters

    def _meter(self, row: Row) -> tuple[Segment, Bill]:
        segment = (str(row.state["job_id"]), row.state["segment"])
        return segment, self.bills[segment]

    def _MeterOpened(self, row: Row, state: Mapping[str, Any]) -> None:
        segment, bill = self._meter(row)
        self.require(not bill.opened, "a segment has a second meter", row)
        self.require(bill.rate == state["rate_micros_per_hour"], "the meter has another rate", row)
        bill.opened, bill.limit = True, state["guarantee_micros"]
        job = self.jobs[segment[0]]
        self.require((job.guarantee is None) == (bill.limit is None), "the guarantee is lost", row)
        if job.guarantee is not None and bill.limit:
            left = job.guarantee["micros"] - self._net(segment[0])
            self.require(bill.limit <= left, f"the guarantee leaves {left}", row)
        self.accounts[bill.account].open.add(segment)

    def _lease(self, row: Row, state: Mapping[str, Any]) -> None:
        _, bill = self._meter(row)
        self.require(state["paid_seconds"] > bill.paid, "a lease became shorter", row)
        self.require(not bill.closed and not bill.refused, "a closed meter got a lease", row)
        bill.paid = state["paid_seconds"]

    _LeaseGranted = _LeaseExtended = _lease

    def _LeaseRefused(self, row: Row, state: Mapping[str, Any]) -> None:
        self._meter(row)[1].refused = True

    def _MinuteMetered(self, row: Row, state: Mapping[str, Any]) -> None:
        segment, bill = self._meter(row)
        begin, end = state["from_seconds"], state["to_seconds"]
        self.require(begin == bill.billed < end, "a second is billed twice or skipped", row)
        amount, charged = bill.charge(end) - bill.charge(begin), bill.charged_seconds
        self.require(state["amount_micros"] == amount, f"a minute costs {amount}", row)
        whole = charged is None or not begin < charged < end
        self.require(whole, "a minute is charged and covered", row)
        price = cost(bill.rate, end) - cost(bill.rate, begin)
        covered = None if charged is None or begin < charged else price
        self.require(state["covered_micros"] == covered, f"the minute covers {covered}", row)
        self.require(end <= bill.paid, "time beyond the lease is billed", row)
        seen = self.evidence(segment)
        self.require(end <= seen, f"{end} s are billed, but the evidence ends at {seen} s", row)
        bill.billed = end
        guarantee = self.jobs[segment[0]].guarantee
        if guarantee is not None:
            within = self._net(segment[0]) <= guarantee["micros"]
            self.require(within, "a bill is above its guarantee", row)
            self.counts["covered seconds"] += 0 if covered is None else end - begin

    def _net(self, job: str) -> int:
        """Micro-dollars of a job, less credits."""
        return sum(
            each.charge(each.billed) - each.credited
            for (of_job, _), each in self.bills.items()
            if of_job == job
        )

    def _LostWorkCredited(self, row: Row, state: Mapping[str, Any]) -> None:
        _, bill = self._meter(row)
        begin, end = state["from_seconds"], state["to_seconds"]
        amount = bill.charge(end) - bill.charge(begin)
        self.require(state["amount_micros"] == amount, f"the credit must be {amount}", row)
        bill.credited += amount

    def _MeterClosed(self, row: Row, state: Mapping[str, Any]) -> None:
        segment, bill = self._meter(row)
        self.require(not bill.closed, "a meter closed twice", row)
        self.require(bill.ended is not None, "a meter closed before its segment ended", row)
        self.require(state["billed_seconds"] == bill.billed, "it closed at another time", row)
        bill.closed = True
        self.accounts[bill.account].open.discard(segment)

    # Jobs

    def _JobApproved(self, row: Row, state: Mapping[str, Any]) -> None:
        job = JobFacts(str(state["account_id"]), state["plan"]["gpu_count"])
        job.rate = state["plan"]["rate_micros_per_hour"]
        job.had_maximum = state["max_cost_micros"] is not None
        self.jobs[row.originator] = job
        self._guarantee(row, state, (0, 0), 0)
        self.accounts[job.account].jobs.append(job)

    def _MaxCostChanged(self, row: Row, state: Mapping[str, Any]) -> None:
        self.jobs[row.originator].had_maximum |= state["max_cost_micros"] is not None

    def _JobResumed(self, row: Row, state: Mapping[str, Any]) -> None:
        job = self.jobs[row.originator]
        self.require(job.paused is not None, "a job resumed that was not paused", row)
        job.paused, job.poorest, job.count = None, None, state["gpu_count"]
        job.rate = state["rate_micros_per_hour"]
        own = [each for (id, _), each in self.bills.items() if id == row.originator]
        net = self._net(row.originator)
        # Minutes stay billed if the final report is of a shorter time.
        least = min(net, sum(each.charge(each.used) for each in own))
        most = net + sum(each.held for each in own)
        self._guarantee(row, state, (least, most), sum(each.used for each in own))

    def _guarantee(
        self, row: Row, state: Mapping[str, Any], paid: tuple[int, int], used: int
    ) -> None:
        """Add the upper bound of an approval to what was paid, and three times its time.

        `paid` is a range, because the last segment may not be settled yet.
        """
        high = ceil(sum(each["high_seconds"] for each in state["estimate"]["phases"]))
        job = self.jobs[row.originator]
        job.guarantee = guarantee = state["guarantee"]
        before = guarantee["micros"] - cost(job.rate, high)
        self.require(paid[0] <= before <= paid[1], f"{paid} was paid, not {before}", row)
        seconds = used + FACTOR * high
        self.require(guarantee["seconds"] == seconds, f"its time must be {seconds} s", row)

    def _SegmentAllocated(self, row: Row, state: Mapping[str, Any]) -> None:
        job = self.jobs[row.originator]
        rests = job.running or job.final is not None or job.paused is not None
        self.require(not rests, "a job at rest got GPUs", row)
        self.require(state["segment"] == job.segment + 1, "a segment was skipped", row)
        job.segment, job.running, job.stop_asked = state["segment"], True, False
        job.poorest = None
        rate = state["rate_micros_per_hour"]
        self.bills[row.originator, job.segment] = Bill(job.account, rate)

    def _ask(self, row: Row, state: Mapping[str, Any]) -> None:
        self.jobs[row.originator].stop_asked = True

    _PauseRequested = _CancelRequested = _ask

    def _CheckpointSaved(self, row: Row, state: Mapping[str, Any]) -> None:
        job = self.jobs[row.originator]
        job.saved[state["ref"]] = (state["segment"], state["elapsed_seconds"])
        if state["step"] > job.furthest_step:
            job.furthest_step, job.crashes = state["step"], 0

    def _CheckpointPruned(self, row: Row, state: Mapping[str, Any]) -> None:
        self.jobs[row.originator].saved.pop(state["ref"], None)

    def _CheckpointRejected(self, row: Row, state: Mapping[str, Any]) -> None:
        job = self.jobs[row.originator]
        is_newest = next(reversed(job.saved), None) == state["ref"]
        segment, _ = job.saved.pop(state["ref"])
        kept = job.saved_seconds(segment) if is_newest else None
        self.require(state["kept_seconds"] == kept, f"the job keeps {kept} s", row)
        if kept is None:
            return
        last, seconds = next(reversed(job.saved.values()), (0, 0))[:2]
        for number in range(max(1, last), state["segment"]):
            bill, kept = self.bills[row.originator, number], seconds if number == last else 0
            bill.kept = kept if bill.kept is None else min(kept, bill.kept)

    def _SegmentEnded(self, row: Row, state: Mapping[str, Any]) -> None:
        job, segment = self.jobs[row.originator], (row.originator, state["segment"])
        bill, fact = self.bills[segment], self.fact_of(segment)
        self.require(job.running and job.segment == segment[1], "another segment ended", row)
        self.require(bill.ended is None, "a segment ended twice", row)
        job.running, bill.ended, bill.stop_asked = False, state, job.stop_asked
        job.crashes += state["reason"] == "crashed"
        if fact is None:
            self.require(state["elapsed_seconds"] == 0, "a segment without a pod took time", row)
            return
        bill.lasted = int(fact.seconds_since_launch)
        elapsed, seen = state["elapsed_seconds"], self.evidence(segment)
        self.require(elapsed <= seen, f"it ended after {elapsed} s, but was seen for {seen} s", row)
        if self._platform_pays(bill, fact):
            bill.kept = job.saved_seconds(segment[1])
            self.require(state["kept_seconds"] == bill.kept, f"the job keeps {bill.kept} s", row)

    def _platform_pays(self, bill: Bill, fact: Fact) -> bool:
        """Return True if time after the last checkpoint is free."""
        ended = bill.ended
        assert ended is not None
        match ended["reason"]:
            case "crashed":
                return ended["failure"] in PAID_BY_PLATFORM
            case "stopped":
                return not bill.stop_asked
            case "lease_ended":
                return fact.exit_code == OVERRUN
            case _:
                return False

    def _JobPaused(self, row: Row, state: Mapping[str, Any]) -> None:
        job = self.jobs[row.originator]
        self.require(not job.running and job.final is None, "a job paused that runs", row)
        job.paused = state["reason"]
        bill = self.bills.get((row.originator, job.segment))
        limited = self.accounts[job.account].had_budget or job.had_maximum
        # A limit can refuse a lease, and leave enough when the scheduler looks for the reason.
        refused = bill is not None and bill.refused and limited
        self.require(refused or self._explains(job), "nothing explains the pause", row)

    def _explains(self, job: JobFacts) -> bool:
        """Return True if a command or the lack of money or GPUs explains the pause of a job."""
        money = self.accounts[job.account]
        own = [each for (id, _), each in self.bills.items() if self.jobs[id] is job]
        guarantee = job.guarantee
        if guarantee is not None and job.paused in ("balance", "budget"):
            charged = sum(each.charge(each.used) for each in own)
            if charged + cost(job.rate, 1) > guarantee["micros"]:
                return False  # covered time needs no money
        match job.paused:
            case "overrun":
                left = 0 if guarantee is None else guarantee["seconds"]
                # A trainer that did not save lost its time, but it was there to use.
                lost = max(own[-1].ran, own[-1].paid) - own[-1].used if own else 0
                return sum(each.used for each in own) + lost > left - self.minute
            case "owner":
                return "pause" in job.commands
            case "suspended":
                return money.was_suspended
            case "budget":
                return money.had_budget
            case "max_cost":
                return job.had_maximum
            case "capacity":
                return any(job.count > (pool.lowest or 0) for pool in self.pools.values())
            case _:
                poorest = money.balance - money.reserved
                if job.poorest is not None:
                    poorest = min(poorest, job.poorest)
                return poorest < cost(job.rate, self.minute) + 1

    def _end(self, row: Row, state: Mapping[str, Any]) -> None:
        job = self.jobs[row.originator]
        self.require(job.final is None, "a job ended twice", row)
        job.final, job.paused = FINAL[row.topic], None
        if job.final == "cancelled":
            self.require("cancel" in job.commands, "no owner cancelled the job", row)
        if job.final == "failed":
            tried = state["failure"] in NEVER_RETRIED or job.crashes > RETRIES
            self.require(tried, f"the job failed after {job.crashes} crashes", row)

    _Registered = _JobFailed = _JobCancelled = _end

    # GPUs

    def _GpuPoolOpened(self, row: Row, state: Mapping[str, Any]) -> None:
        self.pools[row.originator] = PoolFacts()

    def _CapacityChanged(self, row: Row, state: Mapping[str, Any]) -> None:
        pool = self.pools[row.originator]
        pool.capacity = state["capacity"]
        if pool.lowest is None or pool.capacity < pool.lowest:
            pool.lowest = pool.capacity

    def _GpusAllocated(self, row: Row, state: Mapping[str, Any]) -> None:
        pool, segment = self.pools[row.originator], (str(state["job_id"]), state["segment"])
        self.require(segment not in pool.held, "a segment got GPUs twice", row)
        pool.held[segment] = state["count"]
        held = sum(pool.held.values())
        self.require(held <= pool.capacity, f"{held} of {pool.capacity} GPUs are held", row)

    def _GpusReleased(self, row: Row, state: Mapping[str, Any]) -> None:
        released = self.pools[row.originator].held.pop((str(state["job_id"]), state["segment"]), 0)
        self.require(released > 0, "a segment released GPUs that it did not hold", row)

    # The end

    def check_rest(self, last_id: int, positions: Mapping[str, int]) -> None:
        """Check a platform on which every job has ended and every event is handled."""
        for id, job in self.jobs.items():
            self.require(job.final is not None, f"job {id} is stuck (paused: {job.paused})")
        for pool in self.pools.values():
            self.require(not pool.held, f"GPUs are still held: {list(pool.held)}")
        for account, money in self.accounts.items():
            self.require(money.reserved == 0, f"{account} still reserves {money.reserved}")
        for segment, bill in self.bills.items():
            self._check_bill(segment, bill)
        for service, position in positions.items():
            self.require(position == last_id, f"{service} is at {position} of {last_id}")
            answered = self.answered.get(service, frozenset())
            due = {id for id, topic in self.topics.items() if topic in answered}
            skipped = due - self.handled.get(service, set())
            self.require(not skipped, f"{service} skipped events {sorted(skipped)[:5]}")

    def _check_bill(self, segment: Segment, bill: Bill) -> None:
        """Compare the net bill of a segment with the time that its trainer worked."""
        name = f"segment {segment[1]} of job {segment[0]}"
        if not (bill.opened and bill.closed) or bill.ended is None:
            self.require(False, f"{name} is not settled")
            return
        fact = self.fact_of(segment)
        if fact is None:
            self.require(bill.billed == 0, f"{name} had no trainer, but {bill.billed} s are billed")
            return
        kept = bill.billed if bill.kept is None else min(bill.kept, bill.billed)
        net = bill.charge(bill.billed) - bill.credited
        if not (fact.report_was_wrong or fact.clock_was_wrong):
            ran = max(0, bill.ended["elapsed_seconds"] - bill.ended["grace_seconds"])
            due = max(bill.billed, min(ran, bill.paid))
            self.require(bill.billed == due, f"{name}: {bill.billed} s are billed, {due} s are due")
            due = bill.charge(min(kept, ran))
            self.require(net == due, f"{name} costs {net} micro-dollars, {due} are due")
            if bill.kept is None:
                due = bill.charge(min(fact.worked, bill.paid))
                self.require(net == due, f"{name} costs {net} micro-dollars, worth {due}")
        if not (fact.report_was_ahead and fact.clock_was_ahead):
            # With one wrong clock, the other one limits the bill.
            most = bill.charge(bill.lasted if fact.report_was_ahead else fact.worked)
            self.require(net <= most, f"{name} costs {net} micro-dollars for work worth {most}")
