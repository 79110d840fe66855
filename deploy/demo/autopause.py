"""The auto-pause demo. Two jobs use up one balance, pause at zero, and resume after a top-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from domain.core.money import charge_micros, exact_dollars
from gateway.cli.client import Client, ClientError, Refused

POLL_SECONDS = 0.3
STORY_SECONDS = 1200.0
SPARE = 1.05  # multiple of one job's upper bound, so that the other job can start too

Say = Callable[[str], None]
TopUp = Callable[[int, str], None]


@dataclass(frozen=True)
class Bill:
    """Usage and cost of a job's segments, from its events, in seconds and micro-dollars."""

    job: dict[str, Any]
    elapsed_seconds: int
    metered_seconds: int
    grace_seconds: int
    charged_micros: int
    expected_micros: int  # rate x metered seconds, rounded per segment

    @property
    def unpaid_seconds(self) -> int:
        """GPU time that is neither billed nor part of the grace period."""
        return self.elapsed_seconds - self.metered_seconds - self.grace_seconds


class AutoPause:
    """The demo, which uses the client of an account. `top_up` acts as the operator."""

    def __init__(self, client: Client, top_up: TopUp, say: Say) -> None:
        self._client = client
        self._top_up = top_up
        self._say = say
        self._deadline = time.monotonic() + STORY_SECONDS
        self._shown: dict[str, str] = {}

    def run(self, form: dict[str, Any]) -> list[Bill]:
        """Run two identical jobs on an account without credit.

        Raise ClientError if a request or a job fails.
        """
        quote = self._client.post("/estimates", form)
        upper = quote["estimate"]["high"]["micros"]
        low, high = quote["estimate"]["low"]["text"], quote["estimate"]["high"]["text"]
        self._say(f"estimate of one job: {low} to {high}")
        self._top_up(int(SPARE * upper), "first")
        paths = [self._approve(form) for _ in range(2)]
        self._await(paths, "paused")
        self._say(f"balance {self._balance()}: both jobs are paused, each with a checkpoint")
        self._say(f"EcoLink refuses to resume: {self._refusal(paths[0])}")
        self._top_up(4 * upper, "second")
        for path in paths:
            self._client.post(f"{path}/resume", {"wait": True})
        self._say(f"topped up to {self._balance()}: both jobs are resumed")
        self._await(paths, "registered")
        return [self._bill(path) for path in paths]

    def _approve(self, form: dict[str, Any]) -> str:
        body = form | {"wait": True}
        job = self._client.post("/jobs", body, idempotency_key=str(uuid4()))
        self._say(f"approved {job['id'][:14]}")
        return f"/jobs/{job['id']}"

    def _await(self, paths: Sequence[str], status: str) -> None:
        """Wait until all jobs have a status and their meters are closed."""
        waiting = list(paths)
        while waiting:
            if time.monotonic() > self._deadline:
                raise ClientError(
                    f"The jobs are not {status} after {STORY_SECONDS:.0f} s. See the log of the "
                    "scheduler."
                )
            for path in list(waiting):
                job = self._client.get(path)
                self._show(job)
                if job["status"] in ("failed", "cancelled"):
                    raise ClientError(
                        f"{job['id']} has the state {job['status']}: {job['error_class']}"
                    )
                if job["status"] == status and is_settled(self._client, job):
                    waiting.remove(path)
            time.sleep(POLL_SECONDS)

    def _show(self, job: dict[str, Any]) -> None:
        line = f"{job['id'][:14]} {job['status']}"
        if job["phase"] != job["status"]:
            line += f" ({job['phase']})"
        if self._shown.get(job["id"]) != line:
            self._shown[job["id"]] = line
            total = job["total_steps"]
            step = "" if total is None else f", step {job['step']:,} of {total:,}"
            self._say(f"{line}{step}, balance {job['balance']['text']}")

    def _refusal(self, path: str) -> str:
        """Return the error message of an attempt to resume without money."""
        try:
            self._client.post(f"{path}/resume", {"wait": True})
        except Refused as refused:
            if refused.status == 402 and refused.problem["figures"]["missing_micros"] > 0:
                return str(refused)
            raise
        raise ClientError("EcoLink resumed a job without money.")

    def _bill(self, path: str) -> Bill:
        job = self._client.get(path)
        events = self._client.get(f"{path}/timeline")["data"]
        fields = {
            topic: [event["fields"] for event in events if event["topic"] == topic]
            for topic in ("SegmentAllocated", "SegmentEnded", "MinuteMetered", "MeterClosed")
        }
        rates = [each["rate_micros_per_hour"] for each in fields["SegmentAllocated"]]
        metered = [each["billed_seconds"] for each in fields["MeterClosed"]]
        return Bill(
            job=job,
            elapsed_seconds=sum(each["elapsed_seconds"] for each in fields["SegmentEnded"]),
            metered_seconds=sum(metered),
            grace_seconds=sum(each["grace_seconds"] for each in fields["SegmentEnded"]),
            charged_micros=sum(each["amount_micros"] for each in fields["MinuteMetered"]),
            expected_micros=sum(map(charge_micros, rates, metered)),
        )

    def _balance(self) -> str:
        return self._client.get("/account")["balance"]["text"]


def is_settled(client: Client, job: dict[str, Any]) -> bool:
    """Return True if the meters of all segments are closed and the job includes all segments."""
    events = client.get(f"/jobs/{job['id']}/timeline")["data"]
    closed = [event["fields"] for event in events if event["topic"] == "MeterClosed"]
    billed = sum(fields["billed_seconds"] for fields in closed)
    return len(closed) == job["segment"] and job["billed_seconds"] == billed


def require_exact(bills: Sequence[Bill]) -> None:
    """Raise ClientError unless every micro-dollar and every second is accounted for."""
    for bill in bills:
        if bill.charged_micros != bill.expected_micros or bill.unpaid_seconds:
            raise ClientError(
                f"EcoLink charged {exact_dollars(bill.charged_micros)} for {bill.job['id']}. "
                f"The expected charge is {exact_dollars(bill.expected_micros)}, and "
                f"{bill.unpaid_seconds:,} s are unpaid."
            )
