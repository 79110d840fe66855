"""The oracle: rules that must hold after any faults, judged from raw rows, messages and files.

It imports nothing of the product, so that it cannot share an error with it. Each rule is one
function, whose docstring is the rule. It yields a sentence for each violation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cached_property, wraps
from itertools import islice, pairwise

from tests.chaos.records import Event, Records, Row


class Run:
    """The records of a run, with what several rules fold from them."""

    def __init__(self, records: Records) -> None:
        self.records = records

    @cached_property
    def meters(self) -> dict[str, Meter]:
        """All meters by `<job>-<segment>`."""
        return {meter.name: meter for meter in meters_of(self.records.events).values()}

    def applied(self, projection: str) -> list[Event]:
        """Return the events that a projection has applied."""
        positions = self.records.tables["projection_positions"]
        last = next((each["position"] for each in positions if each["name"] == projection), None)
        return [event for event in self.records.events if last is None or event.id <= last]

    @cached_property
    def segments(self) -> dict[str, Segment]:
        """All segments by `<job>-<segment>`."""
        return segments_of(self.records)


Rule = Callable[[Run], Iterable[str]]

RULES: list[Rule] = []

MOST_SENTENCES = 10
"""Violations of one rule that are listed."""

MINUTE_SECONDS = 3
GRACE_SECONDS = 4

START_SECONDS = 2.0
"""Seconds by which a pod may seem to run longer than its own facts before its first report.

The scheduler's evidence starts at the binding of the GPUs, and a busy machine delays the facts.
"""

IDLE_CONSUMERS = ("serving", "__migration__")
"""Names with a position that no process of the harness advances."""

RETRIED_CRASHES = 3
"""Consecutive crashes without a later checkpoint after which a job is relaunched."""

PLATFORM_PAYS = (
    *("out_of_memory", "node_lost", "disk_full", "trainer_crashed", "model_load_failed"),
    *("checkpoint_mismatch", "timeout"),
)
NOT_RETRIED = ("bad_data", "loss_diverged", "checkpoint_mismatch", "out_of_memory")


def rule(function: Rule) -> Rule:
    """Register a rule that holds at any moment."""
    RULES.append(function)
    return function


def rule_at_rest(function: Rule) -> Rule:
    """Register a rule that holds when nothing runs."""

    @wraps(function)
    def at_rest(run: Run) -> Iterable[str]:
        return () if run.records.unsettled else function(run)

    return rule(at_rest)


def violations(records: Records) -> list[str]:
    """Return all violations of all rules, each with the name of its rule."""
    run = Run(records)
    return [
        f"{each.__name__}: {sentence}"
        for each in RULES
        for sentence in islice(each(run), MOST_SENTENCES)
    ]


# The log, and its copies


@rule
def versions_are_gapless(run: Run) -> Iterator[str]:
    """The versions of each stream are 1 to n, in the order of the log."""
    records = run.records
    newest: dict[str, int] = defaultdict(int)
    for event in records.events:
        if event.version != newest[event.originator] + 1:
            yield (
                f"event {event.id} of {event.originator} has version {event.version}, after "
                f"{newest[event.originator]}"
            )
        newest[event.originator] = event.version


@rule_at_rest
def the_stream_equals_the_log(run: Run) -> Iterator[str]:
    """The messages of the stream are the events of the log, each once and in order.

    A stream may lack its beginning, and messages that were deleted from it, which leave a gap in
    its sequences. Consumers read such events from the log.
    """
    log, messages = run.records.events, run.records.stream
    places = {event.id: place for place, event in enumerate(log)}
    if not messages or messages[-1]["id"] != log[-1].id:
        yield f"the stream has {len(messages)} messages, and does not end with event {log[-1].id}"
    before: tuple[int, int] | None = None  # sequence and place of the message before
    for message in messages:
        sequence, place = message["sequence"], places.get(message["id"])
        if place is None or _content(message) != _content_of(log[place]):
            yield f"message {sequence} differs from event {message['id']} of the log"
            return
        if message["prev_id"] != (log[place - 1].id if place else 0):
            yield f"message {sequence} of event {message['id']} names {message['prev_id']}"
        if before is not None:
            deleted, lacking = sequence - before[0] - 1, place - before[1] - 1
            if not 0 <= lacking <= deleted:
                yield f"message {sequence} is event {message['id']}, {lacking} too far"
        before = sequence, place


def _content(message: Row) -> tuple[object, ...]:
    names = ("originator_id", "originator_version", "topic", "state")
    return tuple(message[name] for name in names)


def _content_of(event: Event) -> tuple[object, ...]:
    return event.originator, event.version, event.topic, event.state


@rule
def handled_events_have_one_effect(run: Run) -> Iterator[str]:
    """All events with the same command are next to each other, so no command ran twice."""
    records = run.records
    ended: set[str] = set()
    current = ""
    for event in records.events:
        command = event.state["command_id"]
        if command == current:
            continue
        ended.add(current)
        current = command
        # Only handlers name the event that they handled. A repeated request names itself again.
        service, _, number = command.partition(":")
        if command in ended and number.isdigit():
            yield f"event {event.id} ({event.topic}) repeats the command {command} of {service}"


@rule
def leaders_write_in_turn(run: Run) -> Iterator[str]:
    """The epochs of a leader's saves never decrease along the log."""
    records = run.records
    saves: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for write in records.writes:
        saves[write["name"]] += [(number, write["epoch"]) for number in write["ids"]]
    for name, written in saves.items():
        newest = 0
        for number, epoch in sorted(written):
            if epoch < newest:
                yield f"{name} of epoch {epoch} saved event {number} after epoch {newest}"
            newest = max(newest, epoch)


@rule_at_rest
def nothing_is_parked_or_behind(run: Run) -> Iterator[str]:
    """Every consumer has applied the whole log, and no event is parked."""
    records = run.records
    for row in records.tables["parked_events"]:
        yield f"{row['consumer']} parked event {row['notification_id']}: {row['error']}"
    last = records.events[-1].id if records.events else 0
    for row in records.tables["projection_positions"]:
        if row["position"] != last:
            yield f"projection {row['name']} is at {row['position']}, not at {last}"
    newest: dict[str, int] = {}
    for row in records.tables["ecolink_tracking"]:
        name = row["application_name"]
        newest[name] = max(newest.get(name, 0), row["notification_id"])
    for name, position in newest.items():
        if name not in IDLE_CONSUMERS and position != last:
            yield f"{name} is at {position}, not at {last}"


@rule
def everything_settles(run: Run) -> Iterator[str]:
    """After the last fault, all jobs end and all consumers catch up within the deadline."""
    records = run.records
    if records.unsettled:
        yield records.unsettled


# Money


def charge(rate: int, seconds: int) -> int:
    """Return the price of the first seconds of a segment in micro-dollars, rounded half up."""
    whole, rest = divmod(rate * seconds, 3600)
    return whole + (2 * rest >= 3600)


class Meter:
    """A meter, folded from raw events."""

    def __init__(self, opened: Event) -> None:
        self.account: str = opened.state["account_id"]
        self.job: str = opened.state["job_id"]
        self.segment: int = opened.state["segment"]
        self.rate: int = opened.state["rate_micros_per_hour"]
        self.paid = self.billed = self.minutes = self.credited = self.credited_micros = 0
        self.closed = False

    @property
    def name(self) -> str:
        return f"{self.job}-{self.segment}"

    @property
    def leased(self) -> int:
        """Amount that the account must reserve for this meter, in micro-dollars."""
        return 0 if self.closed else charge(self.rate, self.paid) - charge(self.rate, self.billed)

    def take(self, event: Event) -> None:
        """Apply an event of this meter."""
        match event.topic:
            case "LeaseGranted" | "LeaseExtended":
                self.paid = event.state["paid_seconds"]
            case "MinuteMetered":
                self.billed, self.minutes = event.state["to_seconds"], event.state["minute"]
            case "MeterClosed":
                self.closed = True
            case "LostWorkCredited":
                self.credited += event.state["to_seconds"] - event.state["from_seconds"]
                self.credited_micros += event.state["amount_micros"]


def meters_of(events: Iterable[Event]) -> dict[str, Meter]:
    """Fold all meters."""
    found: dict[str, Meter] = {}
    for event in events:
        if event.topic == "MeterOpened":
            found[event.originator] = Meter(event)
        elif event.originator in found:
            found[event.originator].take(event)
    return found


@rule
def minutes_are_contiguous_and_exact(run: Run) -> Iterator[str]:
    """The minutes of a segment are numbered from 1, adjoin, lie within its lease, and cost the
    difference of two rounded charges.
    """
    records = run.records
    meters: dict[str, Meter] = {}
    for event in records.events:
        if event.topic == "MeterOpened":
            if event.originator in meters:
                yield f"the meter {event.originator} was opened twice"
            meters[event.originator] = Meter(event)
            continue
        meter = meters.get(event.originator)
        if meter is None:
            continue
        state = event.state
        if meter.closed and event.topic not in ("LostWorkCredited", "MeterClosed"):
            yield f"event {event.id} ({event.topic}) follows the end of the meter {meter.name}"
        if event.topic == "MinuteMetered":
            begin, end = state["from_seconds"], state["to_seconds"]
            if state["minute"] != meter.minutes + 1 or begin != meter.billed or end <= begin:
                yield (
                    f"{meter.name} has minute {state['minute']} from {begin} to {end} after minute "
                    f"{meter.minutes}, which ends at {meter.billed}"
                )
            if end - begin > MINUTE_SECONDS or end > meter.paid:
                yield f"{meter.name} has a minute to {end} with {meter.paid} paid seconds"
            due = charge(meter.rate, end) - charge(meter.rate, begin)
            if state["amount_micros"] != due:
                yield f"{meter.name} is charged {state['amount_micros']} for a minute of {due}"
        elif event.topic in ("LeaseGranted", "LeaseExtended"):
            if state["paid_seconds"] <= meter.paid:
                yield f"a lease of {meter.name} shrinks to {state['paid_seconds']}"
        elif event.topic == "MeterClosed":
            released = charge(meter.rate, meter.paid) - charge(meter.rate, meter.billed)
            if meter.closed or state["billed_seconds"] != meter.billed:
                yield f"the meter {meter.name} closes twice or at another second than it billed"
            if state["released_micros"] != released:
                yield f"{meter.name} releases {state['released_micros']} instead of {released}"
        elif event.topic == "LostWorkCredited":
            begin, end = state["from_seconds"], state["to_seconds"]
            due = charge(meter.rate, end) - charge(meter.rate, begin)
            if end != meter.billed - meter.credited or state["amount_micros"] != due:
                yield f"{meter.name} has a credit of {state['amount_micros']} instead of {due}"
        meter.take(event)


class Balance:
    """The money of an account, folded from raw events."""

    def __init__(self) -> None:
        self.balance = self.reserved = 0

    def take(self, event: Event) -> None:
        """Apply an event of the account."""
        state = event.state
        match event.topic:
            case "CreditGranted" | "ToppedUp" | "TopUpRestored" | "ChargeReversed":
                self.balance += state["amount_micros"]
            case "TopUpWithheld":
                self.balance -= state["amount_micros"]
            case "UsageSettled":
                self.balance -= state["captured_micros"]
                self.reserved += state["reserved_micros"] - state["captured_micros"]


@rule
def leases_are_reserved_and_paid(run: Run) -> Iterator[str]:
    """After each save, an account reserves exactly its open leases, within its balance."""
    records = run.records
    balances: dict[str, Balance] = defaultdict(Balance)
    meters: dict[str, Meter] = {}
    touched: set[str] = set()
    for event, following in zip(records.events, [*records.events[1:], None], strict=True):
        account = event.state["account_id"]
        if event.topic == "MeterOpened":
            meters[event.originator] = Meter(event)
        elif event.originator in meters:
            meters[event.originator].take(event)
        balances[account].take(event)
        touched.add(account)
        if following is not None and following.state["command_id"] == event.state["command_id"]:
            continue
        for each in touched:
            found = balances[each]
            leased = sum(meter.leased for meter in meters.values() if meter.account == each)
            if not 0 <= found.reserved <= found.balance:
                yield (
                    f"at event {event.id}, account {each} reserves {found.reserved} of "
                    f"{found.balance}"
                )
            if found.reserved != leased:
                yield (
                    f"at event {event.id}, account {each} reserves {found.reserved}, but its open "
                    f"leases cost {leased}"
                )
        touched.clear()


@rule
def every_charge_reaches_the_account_once(run: Run) -> Iterator[str]:
    """Each account pays and gets back exactly the amounts that its meters charge and credit."""
    records = run.records
    paid: Counter[str] = Counter()
    for event in records.events:
        account, state = event.state["account_id"], event.state
        match event.topic:
            case "MinuteMetered":
                paid[account] += state["amount_micros"]
            case "UsageSettled":
                paid[account] -= state["captured_micros"]
            case "LostWorkCredited":
                paid[f"{account} credit"] += state["amount_micros"]
            case "ChargeReversed":
                paid[f"{account} credit"] -= state["amount_micros"]
    for account, difference in paid.items():
        if difference:
            yield f"account {account}: the meters differ by {difference} micro-dollars"


@rule_at_rest
def nothing_is_reserved_when_idle(run: Run) -> Iterator[str]:
    """When nothing runs, no meter is open and no money is reserved."""
    records = run.records
    for meter in run.meters.values():
        if not meter.closed:
            yield f"the meter {meter.name} is open"
    for row in records.tables["accounts"]:
        if row["reserved_micros"]:
            yield f"account {row['account_id']} still reserves {row['reserved_micros']}"


# Evidence


class Segment:
    """A launch of a job, from raw events, with the facts of its trainer processes."""

    def __init__(self, job: str, number: int) -> None:
        self.job, self.number = job, number
        self.bound_at: float | None = None
        self.ended: Event | None = None
        self.stop_requested = False
        self.saved: list[Row] = []
        self.rejected = False
        self.facts: list[list[Row]] = []

    @property
    def name(self) -> str:
        return f"{self.job}-{self.number}"

    def facts_of(self, *kinds: str) -> list[Row]:
        """Return the facts of all its processes with these kinds, by time."""
        found = [fact for facts in self.facts for fact in facts if fact["kind"] in kinds]
        return sorted(found, key=lambda fact: fact["mono"])


def seconds_of(timestamp: str) -> float:
    """Return the seconds since the epoch of a timestamp."""
    return datetime.fromisoformat(timestamp).timestamp()


def segments_of(records: Records) -> dict[str, Segment]:
    """Fold all segments."""
    found: dict[str, Segment] = {}
    running: dict[str, Segment] = {}
    for event in records.events:
        job, state = event.originator, event.state
        if event.topic == "SegmentAllocated":
            running[job] = Segment(job, state["segment"])
            found[running[job].name] = running[job]
        elif event.topic == "CheckpointRejected":
            for number in range(1, state["segment"]):
                if (earlier := found.get(f"{job}-{number}")) is not None:
                    earlier.rejected = True
        elif (segment := running.get(job)) is not None:
            match event.topic:
                case "PodStarted":
                    segment.bound_at = seconds_of(state["bound_at"])
                case "PauseRequested" | "CancelRequested":
                    segment.stop_requested = True
                case "CheckpointSaved":
                    segment.saved.append(state)
                case "SegmentEnded":
                    segment.ended = event
                    del running[job]
    for name, facts in records.facts.items():
        if (segment := found.get(name.rpartition(".")[0])) is not None:
            segment.facts.append(facts)
    return found


@rule
def no_one_pays_without_evidence(run: Run) -> Iterator[str]:
    """A segment is billed at most the seconds that its trainer itself reported.

    Until its first report, the time since the binding of its GPUs in which its pod ran counts.
    """
    for meter in run.meters.values():
        segment = run.segments.get(meter.name)
        if meter.billed == 0 or segment is None:
            continue
        reported = max((fact["elapsed"] for fact in segment.facts_of("report")), default=0.0)
        seen = _seconds_seen(segment, run.records.losses)
        if meter.billed > max(int(reported), seen):
            yield (
                f"{meter.name} is billed {meter.billed} s, but its trainer reported {reported} s "
                f"and its pod ran for {seen:.1f} s"
            )


def _seconds_seen(segment: Segment, losses: list[float]) -> float:
    """Return the seconds for which the scheduler may have seen the pod run before its reports."""
    bound_at, acked = segment.bound_at, segment.facts_of("acked")
    seen = [fact["wall"] for fact in segment.facts_of("pod", "born", "alive")]
    if bound_at is None or not seen:
        return 0.0
    if acked and not any(loss >= bound_at - 1 for loss in losses):
        seen = [min(wall, acked[0]["wall"]) for wall in seen]
    return max(seen) - bound_at + START_SECONDS


@rule
def no_evidence_stays_unpaid(run: Run) -> Iterator[str]:
    """A settled segment is billed every second within its lease that the bus acknowledged.

    Reports that the harness deleted from the bus do not count.
    """
    records = run.records
    for meter in run.meters.values():
        segment = run.segments.get(meter.name)
        if segment is None or segment.ended is None or not meter.closed:
            continue
        ended_at = seconds_of(segment.ended.state["timestamp"])
        acked = [
            fact
            for fact in segment.facts_of("acked")
            if fact["final"] or fact["wall"] < ended_at - 1.0
        ]
        if any(segment.bound_at and loss >= segment.bound_at - 1 for loss in records.losses):
            continue
        if any(fact["wall"] > ended_at for fact in acked if fact["final"]):
            acked = [fact for fact in acked if fact["wall"] < ended_at - 1.0]
        due = max((int(fact["elapsed"]) - int(fact["grace"]) for fact in acked), default=0)
        if meter.billed < min(due, meter.paid) - 1:
            yield f"{meter.name} is billed {meter.billed} s of {due} s, with {meter.paid} s paid"


@rule
def trainers_stop_at_the_end_of_their_lease(run: Run) -> Iterator[str]:
    """No trainer works beyond the paid seconds and the grace period that the log grants it."""
    for meter in run.meters.values():
        segment = run.segments.get(meter.name)
        if segment is None:
            continue
        worked = max((fact["elapsed"] for fact in segment.facts_of("work")), default=0.0)
        if worked > meter.paid + GRACE_SECONDS + 1:
            yield f"{meter.name} worked for {worked} s with {meter.paid} paid seconds"


@rule
def one_trainer_works_at_a_time(run: Run) -> Iterator[str]:
    """No two trainer processes of a job work at the same time."""
    periods: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for name, facts in run.records.facts.items():
        worked = [fact["mono"] for fact in facts if fact["kind"] == "work"]
        if worked:
            job = name.rpartition(".")[0].rpartition("-")[0]
            periods[job].append((worked[0], worked[-1], name))
    for each in periods.values():
        ordered = sorted(each)
        for (_, end, earlier), (begin, _, later) in pairwise(ordered):
            if begin < end:
                yield f"{later} began to work {end - begin:.1f} s before {earlier} ended"


@rule
def lost_work_is_credited_if_the_platform_lost_it(run: Run) -> Iterator[str]:
    """The time after the last checkpoint is credited if and only if the platform lost it.

    Of any other segment, only time that its final report does not confirm is credited.
    """
    for meter in run.meters.values():
        segment = run.segments.get(meter.name)
        if segment is None or segment.ended is None or not meter.closed or segment.rejected:
            continue
        state = segment.ended.state
        if state["failure"] in NOT_RETRIED and not segment.facts_of("bad_data"):
            yield f"{meter.name} failed as {state['failure']}, but its trainer did not"
        if state["reason"] == "completed" and not _has_final_report(segment):
            yield f"{meter.name} is completed, but its trainer did not report that"
        lost = state["failure"] in PLATFORM_PAYS
        lost = lost or (state["reason"] == "stopped" and not segment.stop_requested)
        lost = lost or (state["reason"] == "lease_ended" and not _has_final_report(segment))
        kept = max(0, state["elapsed_seconds"] - state["grace_seconds"])
        if lost:
            kept = min(kept, max((each["elapsed_seconds"] for each in segment.saved), default=0))
        due = max(0, meter.billed - kept)
        if meter.credited != due:
            yield (
                f"{meter.name} ended as {state['reason']} ({state['failure']}) and is credited "
                f"{meter.credited} s instead of {due} s"
            )


def _has_final_report(segment: Segment) -> bool:
    return any(fact["final"] for fact in segment.facts_of("report"))


@rule
def every_killed_segment_is_the_platforms_fault(run: Run) -> Iterator[str]:
    """A segment whose trainer was killed before its final report ends as a loss of the platform.

    If its owner cancels it before the log names its pod, it ends as stopped, and costs nothing.
    """
    for segment in run.segments.values():
        if segment.ended is None or not segment.facts or _has_final_report(segment):
            continue
        state = segment.ended.state
        unseen = segment.bound_at is None and segment.stop_requested
        if unseen and state["reason"] == "stopped" and state["elapsed_seconds"] == 0:
            continue
        if state["reason"] not in ("crashed", "lease_ended") or (
            state["reason"] == "crashed" and state["failure"] not in PLATFORM_PAYS
        ):
            yield f"{segment.name} was killed, but ended as {state['reason']} {state['failure']}"


# Read models


@rule
def balances_equal_the_log(run: Run) -> Iterator[str]:
    """The table of accounts has the balances that the raw events add up to."""
    balances: dict[str, Balance] = defaultdict(Balance)
    for event in run.applied("accounts"):
        balances[event.state["account_id"]].take(event)
    for row in run.records.tables["accounts"]:
        found, account = (row["balance_micros"], row["reserved_micros"]), row["account_id"]
        wanted = (balances[account].balance, balances[account].reserved)
        if found != wanted:
            yield f"account {account} has {found} in its table, and {wanted} in the log"


@rule
def the_ledger_equals_the_log(run: Run) -> Iterator[str]:
    """The ledger has one posting for each event that moves money, and its balances are those of the
    log.
    """
    wanted: dict[str, tuple[str, str, int]] = {}
    for event in run.applied("billing_ledger"):
        posting = _posting(event)
        if posting is not None and posting[2] > 0:
            wanted[f"{event.originator}:{event.version}"] = posting
    found = {
        row["event_id"]: (row["debit"], row["credit"], row["amount_micros"])
        for row in run.records.tables["billing_ledger"]
    }
    for id in sorted(wanted.keys() | found.keys()):
        if wanted.get(id) != found.get(id):
            yield f"event {id} is posted as {found.get(id)} instead of {wanted.get(id)}"


def _posting(event: Event) -> tuple[str, str, int] | None:
    state = event.state
    customer, reserved = f"customer:{state['account_id']}", f"reserved:{state['account_id']}"
    match event.topic:
        case "CreditGranted":
            return "credits", customer, state["amount_micros"]
        case "ToppedUp":
            return "test money", customer, state["amount_micros"]
        case "UsageSettled" if state["reserved_micros"] > 0:
            return customer, reserved, state["reserved_micros"]
        case "UsageSettled":
            return reserved, customer, -state["reserved_micros"]
        case "MinuteMetered":
            return reserved, "revenue", state["amount_micros"]
        case "ChargeReversed":
            return "revenue", customer, state["amount_micros"]
    return None


class Job:
    """A job, folded from raw events."""

    def __init__(self) -> None:
        self.status = "training"
        self.total_steps = self.crashes = self.furthest = 0
        self.checkpoints: dict[str, Row] = {}
        self.billed = self.charged = self.credited = 0
        self.failures: list[str] = []

    def take(self, topic: str, state: Row) -> None:
        """Apply an event of the job or of its meters."""
        match topic:
            case "TrainingStarted":
                self.total_steps = state["total_steps"]
                if state["step"] < state["total_steps"]:
                    self.status = "training"
            case "CheckpointSaved":
                self.checkpoints[state["ref"]] = state
                if state["step"] > self.furthest:
                    self.furthest, self.crashes = state["step"], 0
            case "CheckpointPruned" | "CheckpointRejected":
                self.checkpoints.pop(state["ref"], None)
            case "EvaluationStarted":
                self.status = "evaluating"
            case "EvaluationCompleted":
                self.status = "trained_pending_register"
            case "SegmentEnded":
                if self.status == "trained_pending_register":
                    self.status = "evaluating"
                if state["reason"] == "crashed":
                    self.crashes += 1
                    self.failures.append(state["failure"])
            case "JobResumed":
                newest = max((each["step"] for each in self.checkpoints.values()), default=0)
                trained = 0 < self.total_steps <= newest
                self.status = "evaluating" if trained else "training"
            case "Registered" | "JobPaused" | "JobCancelled" | "JobFailed":
                self.status = topic.removeprefix("Job").lower()
            case "MinuteMetered":
                self.billed += state["to_seconds"] - state["from_seconds"]
                self.charged += state["amount_micros"]
            case "LostWorkCredited":
                self.credited += state["amount_micros"]


def jobs_of(events: Iterable[Event]) -> dict[str, Job]:
    """Fold all jobs."""
    found: dict[str, Job] = {}
    for event in events:
        if event.topic == "JobApproved":
            found[event.originator] = Job()
        job = event.originator if event.originator in found else event.state.get("job_id")
        if job in found:
            found[job].take(event.topic, event.state)
    return found


@rule
def job_rows_equal_the_log(run: Run) -> Iterator[str]:
    """The table of jobs has the status, time and money that the raw events add up to."""
    jobs = jobs_of(run.applied("job_detail"))
    rows = {row["job_id"]: row for row in run.records.tables["job_detail"]}
    for id in sorted(jobs.keys() | rows.keys()):
        job, row = jobs.get(id), rows.get(id)
        if job is None or row is None:
            yield f"job {id} is only in the {'table' if job is None else 'log'}"
            continue
        names = ("status", "billed_seconds", "charged_micros", "credited_micros")
        wanted = (job.status, job.billed, job.charged, job.credited)
        found = tuple(row[name] for name in names)
        if found != wanted:
            yield f"job {id} has {found} in its table, and {wanted} in the log"


@rule
def open_meters_equal_the_log(run: Run) -> Iterator[str]:
    """The table of open meters has exactly the meters that are open in the log."""
    meters = meters_of(run.applied("open_meters")).values()
    wanted = {(meter.job, meter.segment) for meter in meters if not meter.closed}
    found = {(row["job_id"], row["segment"]) for row in run.records.tables["open_meters"]}
    for each in sorted(wanted ^ found):
        yield f"the meter of {each} is only in the {'log' if each in wanted else 'table'}"


CLAIM_EVENTS = ("GpusRequested", "GpusRequestWithdrawn", "GpusAllocated", "GpusReleased")


class Pool:
    """A GPU pool, folded from raw events."""

    def __init__(self) -> None:
        self.capacity = 0
        self.held: dict[tuple[str, int], int] = {}
        self.queue: dict[tuple[str, int], int] = {}


@rule
def gpus_never_exceed_capacity(run: Run) -> Iterator[str]:
    """At every position, each held GPU was queued for, is held once, and fits the capacity."""
    pools: dict[str, Pool] = defaultdict(Pool)
    for event in run.records.events:
        problem = _move(pools[event.originator], event)
        if problem is not None:
            yield f"event {event.id}: {problem}"


@rule
def pools_equal_the_log(run: Run) -> Iterator[str]:
    """The table of pools has the GPUs that the raw events add up to."""
    pools: dict[str, Pool] = defaultdict(Pool)
    for event in run.applied("gpu_pools"):
        _move(pools[event.originator], event)
    for row in run.records.tables["gpu_pools"]:
        pool = pools[row["pool_id"]]
        found = (row["capacity"], row["held"], row["waiting"])
        wanted = (pool.capacity, sum(pool.held.values()), len(pool.queue))
        if found != wanted:
            yield f"pool {row['pool_id']} has {found} in its table, and {wanted} in the log"


@rule_at_rest
def no_gpu_is_held_when_idle(run: Run) -> Iterator[str]:
    """When nothing runs, no segment holds GPUs or waits for them."""
    pools: dict[str, Pool] = defaultdict(Pool)
    for event in run.records.events:
        _move(pools[event.originator], event)
    for pool in pools.values():
        for claim in (*pool.held, *pool.queue):
            yield f"segment {claim} still holds or waits for GPUs"


def _move(pool: Pool, event: Event) -> str | None:
    """Apply an event to a pool, if it is one of a pool. Return what is wrong with it."""
    if event.topic == "CapacityChanged":
        pool.capacity = event.state["capacity"]
    if event.topic not in CLAIM_EVENTS:
        return None
    claim, count = (event.state["job_id"], event.state["segment"]), event.state["count"]
    match event.topic:
        case "GpusRequested":
            if claim in pool.queue or claim in pool.held:
                return f"{claim} is queued twice"
            pool.queue[claim] = count
        case "GpusRequestWithdrawn":
            if pool.queue.pop(claim, None) is None:
                return f"{claim} is withdrawn, but it is not queued"
        case "GpusAllocated":
            if pool.queue.pop(claim, None) is None:
                return f"{claim} gets GPUs, but it is not queued"
            pool.held[claim] = count
            if sum(pool.held.values()) > pool.capacity:
                return f"{sum(pool.held.values())} of {pool.capacity} GPUs are held"
        case "GpusReleased":
            if pool.held.pop(claim, None) is None:
                return f"{claim} releases GPUs that it does not hold"
    return None


# Jobs, commands and files


@rule
def jobs_end_as_their_owners_want(run: Run) -> Iterator[str]:
    """A job is cancelled if its owner cancelled it, fails only for its data or after too many
    crashes without progress, and is registered otherwise.
    """
    jobs = jobs_of(run.records.events)
    cancelled = {
        row["job"]
        for row in run.records.commands
        if row["command"] == "cancel" and row["status"] == 200
    }
    for row in run.records.commands:
        if row["command"] != "script":
            continue
        job = jobs.get(row["job"])
        if job is None:
            yield f"job {row['job']} is not in the log"
            continue
        newest = job.failures[-1] if job.failures else None
        may_fail = newest in NOT_RETRIED or job.crashes > RETRIED_CRASHES
        wanted = "cancelled" if row["job"] in cancelled else "registered"
        if job.status == "failed":
            if not may_fail:
                yield f"job {row['job']} failed after {job.crashes} crashes ({newest})"
        elif job.status != wanted and not run.records.unsettled:
            yield f"job {row['job']} ({row['script']}) is {job.status} instead of {wanted}"


@rule
def acknowledged_commands_are_in_the_log_once(run: Run) -> Iterator[str]:
    """Every command that the gateway acknowledged has its effect in the log exactly once."""
    approved = Counter(event.originator for event in run.records.of("JobApproved"))
    paid = Counter(
        (event.state["account_id"], event.state["amount_micros"])
        for event in run.records.of("ToppedUp")
    )
    stops = {event.originator for event in run.records.of("PauseRequested", "JobPaused")}
    scripted = {row["job"] for row in run.records.commands if row["command"] == "script"}
    for job, count in approved.items():
        if count != 1:
            yield f"job {job} was approved {count} times"
    asked = {
        row["key"] + row["account"] for row in run.records.commands if row["command"] == "approve"
    }
    if len(approved) > len(asked):
        yield f"{len(approved)} jobs were approved for {len(asked)} requests"
    for job in sorted(scripted - approved.keys()):
        yield f"the approval of job {job} was acknowledged, but is not in the log"
    for row in run.records.commands:
        if row["command"] == "top_up" and row["status"] == 200:
            count = paid[row["account"], row["micros"]]
            if count != 1:
                yield f"the payment {row['key']} of {row['account']} is in the log {count} times"
        elif row["command"] == "pause" and row["status"] == 200 and row["job"] not in stops:
            yield f"the pause of job {row['job']} was acknowledged, but is not in the log"
    wanted = {
        (row["account"], row["micros"])
        for row in run.records.commands
        if row["command"] == "top_up"
    }
    for payment, count in paid.items():
        if count != 1 or payment not in wanted:
            yield f"the payment {payment} is in the log {count} times, and was sent as {wanted}"


@rule_at_rest
def stored_files_match_the_log(run: Run) -> Iterator[str]:
    """Every checkpoint and adapter that the log still names is stored with its hash."""
    files = run.records.files
    for job in jobs_of(run.records.events).values():
        for each in job.checkpoints.values():
            found = files.get(f"{each['ref']}/manifest.json")
            if found != each["manifest_sha256"]:
                yield f"the manifest of checkpoint {each['ref']} is {found}"
    for event in run.records.of("Registered"):
        found = files.get(f"{event.state['adapter_ref']}/manifest.json")
        if found != event.state["manifest_sha256"]:
            yield f"the manifest of adapter {event.state['adapter_ref']} is {found}"
    for manifest, content in run.records.manifests.items():
        for file in content:
            path = f"{manifest.rpartition('/')[0]}/{file['path']}"
            if files.get(path) != file["sha256"]:
                yield f"{path} is {files.get(path)}, but its manifest has {file['sha256']}"


# Work beside jobs


@rule_at_rest
def exports_end_with_their_files(run: Run) -> Iterator[str]:
    """Every export that the gateway acknowledged is completed. Its files are stored with their
    hashes.
    """
    newest: dict[str, Event] = {}
    exports: dict[str, str] = {}
    for event in run.records.of(
        *("ExportRequested", "ExportRenewed", "ExportCompleted", "ExportFailed")
    ):
        newest[event.originator] = event
        if event.topic == "ExportRequested":
            exports[event.state["job_id"]] = event.originator
    for row in run.records.commands:
        if row["command"] != "export" or row["status"] not in (200, 201):
            continue
        event = newest.get(exports.get(row["job"], ""))
        if event is None or event.topic != "ExportCompleted":
            yield f"the export of job {row['job']} is {event.topic if event else 'not in the log'}"
    for event in newest.values():
        if event.topic == "ExportCompleted":
            files = event.state["files"]
            found = run.records.files.get(f"{files['ref']}/manifest.json")
            if found != files["manifest_sha256"]:
                yield f"the manifest of export {files['ref']} is {found}"


class Synthesis:
    """A synthesis, folded from raw events."""

    def __init__(self, approved: Event) -> None:
        self.wanted: int = approved.state["plan"]["examples"]
        self.batch = self.accepted = self.datasets = 0
        self.open = False
        self.files: list[Row] = []

    def take(self, event: Event) -> str | None:
        """Apply an event. Return what is wrong with it."""
        state = event.state
        match event.topic:
            case "BatchStarted":
                if self.open or state["batch"] != self.batch + 1:
                    return f"starts batch {state['batch']} after {self.batch}"
                self.batch, self.open = state["batch"], True
            case "BatchCompleted":
                if not self.open or state["batch"] != self.batch:
                    return f"completes batch {state['batch']}, but runs {self.batch}"
                self.open = False
                self.accepted += state["counts"]["accepted"]
                self.files.append(state["file"])
            case "GenerationFinished":
                self.files += [state["examples"], state["provenance"]]
            case "DatasetCreated":
                self.datasets += 1
        return None


@rule_at_rest
def syntheses_end_with_one_dataset(run: Run) -> Iterator[str]:
    """Every synthesis that the gateway acknowledged runs its batches one after another, each once,
    accepts the wanted number of examples, and becomes one dataset. Its files have their hashes.
    """
    found: dict[str, Synthesis] = {}
    for event in run.records.events:
        if event.topic == "SynthesisApproved":
            found[event.originator] = Synthesis(event)
        elif event.originator in found:
            problem = found[event.originator].take(event)
            if problem is not None:
                yield f"event {event.id}: synthesis {event.originator} {problem}"
    for row in run.records.commands:
        if row["command"] == "synthesis" and row["status"] == 201 and row["made"] not in found:
            yield f"synthesis {row['made']} was acknowledged, but is not in the log"
    for id, synthesis in found.items():
        if (synthesis.accepted, synthesis.datasets) != (synthesis.wanted, 1) or synthesis.open:
            yield (
                f"synthesis {id} accepted {synthesis.accepted} of {synthesis.wanted} examples for "
                f"{synthesis.datasets} datasets"
            )
        for file in synthesis.files:
            if run.records.files.get(file["ref"]) != file["sha256"]:
                yield f"{file['ref']} is {run.records.files.get(file['ref'])}"


@rule_at_rest
def trackers_have_each_measurement_once(run: Run) -> Iterator[str]:
    """The tracker of a job has a line for each measured step, and no more lines than
    measurements.
    """
    measured: dict[str, list[int]] = defaultdict(list)
    for row in run.records.measured:
        measured[row["job_id"]].append(row["step"])
    for job, lines in run.records.tracked.items():
        missing = set(measured[job]) - set(lines)
        if missing or len(lines) > len(measured[job]):
            yield (
                f"the tracker has {len(lines)} lines for {len(measured[job])} measurements of job "
                f"{job}, and lacks the steps {sorted(missing)}"
            )
