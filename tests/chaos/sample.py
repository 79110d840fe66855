"""Raw records of a small healthy run: one job whose first segment was killed, written by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.chaos.records import Event, Records, Row

ACCOUNT, JOB, POOL, EXPORT, SYNTHESIS = (
    f"{n}" * 8 + "-0000-4000-8000-000000000000" for n in (1, 2, 3, 4, 5)
)
RATE = 3_600_000
"""A thousand micro-dollars a second."""

BEGAN = 1_800_000_000.0
"""Time of the first event, in seconds since the epoch: 2027-01-15, 08:00 UTC."""


class RawLog:
    """A log that numbers events and versions."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._versions: Counter[str] = Counter()

    def save(self, command: str, *events: tuple[str, str, Row], at: float = 0.0) -> None:
        """Append the events of one command: originator, topic and fields."""
        minutes, seconds = divmod(at, 60)
        time = f"2027-01-15T08:{int(minutes):02d}:{seconds:09.6f}Z"
        for originator, topic, fields in events:
            self._versions[originator] += 1
            account = {"account_id": ACCOUNT, "command_id": command, "timestamp": time}
            number, version = len(self.events) + 1, self._versions[originator]
            self.events.append(Event(number, originator, version, topic, account | fields))


def healthy() -> Records:
    """Return the records of the run."""
    log = RawLog()
    log.save("m", (POOL, "GpuPoolOpened", {}), (POOL, "CapacityChanged", {"capacity": 1}))
    log.save("a", (ACCOUNT, "AccountOpened", {}))
    log.save("b", (ACCOUNT, "ToppedUp", {"amount_micros": 1_000_000}))
    log.save("c", (JOB, "JobApproved", {}))
    _first_segment(log)
    _second_segment(log)
    _export(log)
    _synthesis(log)
    records = Records(events=log.events)
    records.stream = _stream(log.events)
    records.tables = _tables(log.events)
    _store(records)
    records.facts = {f"{JOB}-1.11": _facts(10.0, 7, killed=True), f"{JOB}-2.12": _facts(30.0, 5)}
    records.writes = [
        {"name": "billing", "epoch": 1, "ids": [9, 10, 11]},
        {"name": "billing", "epoch": 2, "ids": [12, 13]},
    ]
    records.commands = [
        _command("top_up", key="top-up-1", micros=1_000_000),
        _command("approve", key="job-1", made=f"ftjob-{JOB}"),
        {"command": "script", "job": JOB, "script": "complete"},
        _command("export", job=JOB, key=None),
        _command("synthesis", key="synthesis-1", made=SYNTHESIS) | {"status": 201},
    ]
    records.measured = [{"job_id": JOB, "segment": 1, "step": step} for step in (1, 2, 2)]
    records.tracked = {JOB: [1, 2]}
    return records


def _export(log: RawLog) -> None:
    files = {"ref": "exports/1", "manifest_sha256": "export"}
    log.save("e1", (EXPORT, "ExportRequested", {"job_id": JOB}))
    log.save("exporter:1", (EXPORT, "ExportFailed", {"code": "no_space"}))
    log.save("e2", (EXPORT, "ExportRenewed", {"attempt": 2}))
    log.save("exporter:2", (EXPORT, "ExportCompleted", {"files": files}))


def _synthesis(log: RawLog) -> None:
    counts, file = {"accepted": 2}, {"ref": "syntheses/1/1", "sha256": "batch"}
    examples, provenance = (
        {"ref": f"syntheses/1/{name}", "sha256": name} for name in ("examples", "provenance")
    )
    log.save("s1", (SYNTHESIS, "SynthesisApproved", {"plan": {"examples": 2}}))
    log.save("s2", (SYNTHESIS, "BatchStarted", {"batch": 1}))
    log.save("s3", (SYNTHESIS, "BatchCompleted", {"batch": 1, "counts": counts, "file": file}))
    finished = {"examples": examples, "provenance": provenance}
    log.save("s4", (SYNTHESIS, "GenerationFinished", finished))
    log.save("s5", (SYNTHESIS, "DatasetCreated", {"examples": 2}))


def _first_segment(log: RawLog) -> None:
    meter = f"meter-{JOB}-1"
    _allocate(log, 1, 9.0)
    log.save("billing:7", *_opened(meter, 1), at=9.0)
    log.save("scheduler:10", (JOB, "PodStarted", {"segment": 1, "bound_at": _time(10)}), at=10.0)
    log.save("r1", (JOB, "TrainingStarted", {"step": 0, "total_steps": 8}), at=11.0)
    log.save("r2", (JOB, "CheckpointSaved", _checkpoint(1, 4)), at=14.0)
    log.save("tick:1", _minute(meter, 1, 1, 0, 3), (ACCOUNT, "UsageSettled", _usage(3, 0)), at=14.0)
    ending = {"reason": "crashed", "failure": "node_lost", "elapsed_seconds": 7, "grace_seconds": 0}
    log.save(
        "lost",
        (JOB, "SegmentEnded", {"segment": 1, **ending}),
        (POOL, "GpusReleased", _claim(1)),
        at=20.0,
    )
    credit = {"from_seconds": 4, "to_seconds": 7, "amount_micros": 3000}
    log.save(
        "billing:18",
        _minute(meter, 1, 2, 3, 6),
        _minute(meter, 1, 3, 6, 7),
        (meter, "MeterClosed", _of(1) | {"billed_seconds": 7, "released_micros": 5000}),
        (meter, "LostWorkCredited", _of(1) | credit),
        (ACCOUNT, "UsageSettled", _usage(4, -5)),
        (ACCOUNT, "ChargeReversed", {"amount_micros": 3000}),
        at=20.0,
    )


def _second_segment(log: RawLog) -> None:
    meter = f"meter-{JOB}-2"
    _allocate(log, 2, 29.0)
    log.save("billing:28", *_opened(meter, 2), at=29.0)
    log.save("scheduler:31", (JOB, "PodStarted", {"segment": 2, "bound_at": _time(30)}), at=30.0)
    log.save("r3", (JOB, "TrainingStarted", {"step": 4, "total_steps": 8}), at=31.0)
    log.save("r4", (JOB, "CheckpointSaved", _checkpoint(2, 8)), at=34.0)
    log.save("r5", (JOB, "EvaluationStarted", {"step": 8}), at=34.0)
    registered = {"adapter_ref": "jobs/adapter", "manifest_sha256": "adapter"}
    ending = {"reason": "completed", "failure": None, "elapsed_seconds": 5, "grace_seconds": 0}
    log.save(
        "r6",
        (JOB, "EvaluationCompleted", {}),
        (JOB, "Registered", registered),
        (JOB, "SegmentEnded", {"segment": 2, **ending}),
        (POOL, "GpusReleased", _claim(2)),
        at=36.0,
    )
    log.save(
        "billing:39",
        _minute(meter, 2, 1, 0, 3),
        _minute(meter, 2, 2, 3, 5),
        (meter, "MeterClosed", _of(2) | {"billed_seconds": 5, "released_micros": 7000}),
        (ACCOUNT, "UsageSettled", _usage(5, -7)),
        at=36.0,
    )


def _allocate(log: RawLog, segment: int, at: float) -> None:
    log.save(f"claim-{segment}", (POOL, "GpusRequested", _claim(segment)), at=at)
    allocated = {"segment": segment, "rate_micros_per_hour": RATE}
    log.save(
        f"allocate-{segment}",
        (POOL, "GpusAllocated", _claim(segment)),
        (JOB, "SegmentAllocated", allocated),
        at=at,
    )


def _opened(meter: str, segment: int) -> list[tuple[str, str, Row]]:
    return [
        (meter, "MeterOpened", _of(segment) | {"rate_micros_per_hour": RATE}),
        (meter, "LeaseGranted", _of(segment) | {"paid_seconds": 12}),
        (ACCOUNT, "UsageSettled", _usage(0, 12)),
    ]


def _minute(meter: str, segment: int, n: int, begin: int, end: int) -> tuple[str, str, Row]:
    times = {"minute": n, "from_seconds": begin, "to_seconds": end}
    return meter, "MinuteMetered", _of(segment) | times | {"amount_micros": 1000 * (end - begin)}


def _of(segment: int) -> Row:
    return {"job_id": JOB, "segment": segment}


def _claim(segment: int) -> Row:
    return _of(segment) | {"count": 1}


def _usage(captured_seconds: int, reserved_seconds: int) -> Row:
    return {
        "captured_micros": 1000 * captured_seconds,
        "reserved_micros": 1000 * reserved_seconds,
    }


def _checkpoint(segment: int, step: int) -> Row:
    return {
        "segment": segment,
        "ref": f"jobs/{segment}/{step}",
        "step": step,
        "elapsed_seconds": 4,
        "manifest_sha256": f"hash-{segment}",
    }


def _command(name: str, **fields: Any) -> Row:
    return {"command": name, "account": ACCOUNT, "status": 200, **fields}


def _time(seconds: int) -> str:
    return f"2027-01-15T08:00:{seconds:02d}+00:00"


def _facts(bound: float, seconds: int, *, killed: bool = False) -> list[Row]:
    """Return the facts of a trainer that reported each second, until it ended or was killed."""
    facts = [{"kind": "born", "wall": BEGAN + bound, "mono": bound}]
    for second in range(1, seconds + 1):
        times = {"wall": BEGAN + bound + second, "mono": bound + second, "elapsed": second + 0.2}
        final = not killed and second == seconds
        report = {"final": final, "grace": 0.0, "n": second, **times}
        facts += [
            {"kind": "alive", **times},
            {"kind": "work", "paid": 12, **times},
            {"kind": "report", **report},
            {"kind": "acked", **report},
        ]
    return facts


def _stream(events: list[Event]) -> list[Row]:
    return [
        {
            "sequence": event.id,
            "id": event.id,
            "prev_id": event.id - 1,
            "topic": event.topic,
            "originator_id": event.originator,
            "originator_version": event.version,
            "state": event.state,
        }
        for event in events
    ]


def _tables(events: list[Event]) -> dict[str, list[Row]]:
    last = events[-1].id
    job = {"job_id": JOB, "status": "registered", "billed_seconds": 12}
    return {
        "accounts": [{"account_id": ACCOUNT, "balance_micros": 991_000, "reserved_micros": 0}],
        "billing_ledger": _ledger(events),
        "open_meters": [],
        "gpu_pools": [{"pool_id": POOL, "capacity": 1, "held": 0, "waiting": 0}],
        "gpu_claims": [],
        "job_detail": [job | {"charged_micros": 12_000, "credited_micros": 3000}],
        "parked_events": [],
        "projection_positions": [{"name": "accounts", "position": last}],
        "ecolink_tracking": [{"application_name": "billing", "notification_id": last}],
        "leaderships": [{"name": "billing", "epoch": 2}],
    }


def _ledger(events: list[Event]) -> list[Row]:
    customer, reserved = f"customer:{ACCOUNT}", f"reserved:{ACCOUNT}"
    sides = {
        "ToppedUp": ("test money", customer),
        "MinuteMetered": (reserved, "revenue"),
        "ChargeReversed": ("revenue", customer),
    }
    rows: list[Row] = []
    for event in events:
        id, state = f"{event.originator}:{event.version}", event.state
        if event.topic in sides:
            debit, credit = sides[event.topic]
            amount = state["amount_micros"]
        elif event.topic == "UsageSettled" and state["reserved_micros"]:
            amount = state["reserved_micros"]
            debit, credit = (customer, reserved) if amount > 0 else (reserved, customer)
        else:
            continue
        row = {"debit": debit, "credit": credit, "amount_micros": abs(amount)}
        rows.append({"event_id": id, **row})
    return rows


def _store(records: Records) -> None:
    for directory, sha256 in (
        ("jobs/1/4", "hash-1"),
        ("jobs/2/8", "hash-2"),
        ("jobs/adapter", "adapter"),
        ("exports/1", "export"),
    ):
        records.files[f"{directory}/manifest.json"] = sha256
        records.files[f"{directory}/state.bin"] = f"state of {sha256}"
        files = [{"path": "state.bin", "sha256": f"state of {sha256}"}]
        records.manifests[f"{directory}/manifest.json"] = files
    for name in ("examples", "provenance"):
        records.files[f"syntheses/1/{name}"] = name
    records.files["syntheses/1/1"] = "batch"
