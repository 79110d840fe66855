"""The workload: accounts that start, pause, resume, cancel and pay for jobs, by a seed."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tests.chaos.caller import HTTP_SECONDS, Answer, Caller
from tests.chaos.companion import Companion, Providers
from tests.chaos.facts import REAL, FactFile
from tests.chaos.rig import Customer, UnderTest
from tests.chaos.watcher import FINAL, JobView, Watcher

KINDS = {
    "complete": 30,
    "pause_resume": 25,
    "cancel": 10,
    "pause_cancel": 5,
    "cancel_queued": 5,
    "crash": 15,
    "bad_data": 5,
    "limited": 10,
}
"""Kinds of jobs, with their weights. A limited one reaches its maximum cost, which then rises."""

POOR_KINDS = KINDS | {"long": 60}
"""Kinds of jobs of a poor account. Long jobs use up its balance; a finished workload cancels them.
"""

REMAINDERS = {"crash": 1, "bad_data": 2, "long": 3}
"""Remainders of seeds modulo 10 by which a light trainer knows what to do."""

LIMIT, RAISED_LIMIT = "0.06", "5.00"

AT_ONCE = 2
"""Jobs of one account that run at the same time."""

PREFIX = "ftjob-"
"""Start of the public ID of a job."""


@dataclass
class Script:
    """A job and what its owner still wants to do with it."""

    kind: str
    seed: int
    patience: float
    """Seconds of training before the first command."""
    job: str | None = None
    trained_since: float | None = None
    pauses: int = 0
    cancelled: bool = False


class Workload:
    """One thread for each account. `finish` lets every job reach its end."""

    def __init__(
        self, rig: UnderTest, watcher: Watcher, seed: str, providers: Providers | None = None
    ) -> None:
        """With providers, the last customer also has other work than jobs."""
        self._commands = FactFile(rig.control / "commands.jsonl")
        self._stopping, self._abandoned = threading.Event(), threading.Event()
        owners = [
            Owner(self, rig, watcher, customer, random.Random(f"{seed}/{n}"), poor=n == 0)
            for n, customer in enumerate(rig.customers)
        ]
        works = [owner.run for owner in owners]
        if providers is not None:
            customer = rig.customers[-1]
            caller = Caller(self, rig, customer)
            companion = Companion(caller, watcher, customer.account_id, providers)
            owners[-1].companion = companion
            works.append(lambda: companion.run(self._stopping, self._abandoned))
        self._errors: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._run, args=(work,), daemon=True) for work in works
        ]

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  # `done` raises it
            self._errors.append(error)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Start no more jobs."""
        self._stopping.set()

    @property
    def done(self) -> bool:
        """True if every job has reached its end. Raise the error of a failed thread."""
        if self._errors:
            raise self._errors[0]
        return not any(thread.is_alive() for thread in self._threads)

    def abandon(self) -> None:
        """End the threads, although jobs are unfinished. Their last requests may take a moment."""
        self._abandoned.set()
        deadline = time.monotonic() + 2 * HTTP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def abandoned(self) -> bool:
        return self._abandoned.is_set()

    def record(self, **fields: Any) -> None:
        """Write down a command and its answer."""
        self._commands.write("command", **fields)


class Owner:
    """An account holder. A poor one has money for little more than one job."""

    def __init__(
        self,
        workload: Workload,
        rig: UnderTest,
        watcher: Watcher,
        customer: Customer,
        drawn: random.Random,
        *,
        poor: bool,
    ) -> None:
        self._workload, self._watcher = workload, watcher
        self._caller = Caller(workload, rig, customer)
        self._customer, self._drawn, self._poor = customer, drawn, poor
        self.companion: Companion | None = None
        """Other work of the same customer, whose jobs are then tracked."""
        self._scripts: list[Script] = []
        self._made = self._paid = 0

    def run(self) -> None:
        """Keep jobs running until the workload stops, and then bring each to its end."""
        while not self._workload.abandoned:
            active = [each for each in self._scripts if not self._ended(each)]
            if self._workload.stopping and not active:
                return
            if not self._workload.stopping and len(active) < AT_ONCE:
                self._approve()
            for script in active:
                self._advance(script)
            time.sleep(0.2)

    def _ended(self, script: Script) -> bool:
        view = self._view(script)
        return script.job is None or (view is not None and view.status in FINAL)

    def _view(self, script: Script) -> JobView | None:
        return None if script.job is None else self._watcher.jobs.get(script.job)

    def _approve(self) -> None:
        kinds = POOR_KINDS if self._poor else KINDS
        kind = self._drawn.choices(list(kinds), weights=list(kinds.values()))[0]
        seed = 10 * self._drawn.randrange(10**6) + REMAINDERS.get(kind, 0)
        script = Script(kind, seed, patience=self._drawn.uniform(0.2, 5.0))
        self._made += 1
        save_steps = self._drawn.choice([5, 10, 20])
        hyperparameters = {"seed": seed, "save_steps": save_steps}
        if REAL in os.environ:
            hyperparameters |= {"epochs": 60, "gradient_accumulation": 1}
        body: dict[str, Any] = {
            "dataset": self._customer.dataset,
            "base_model": "tiny",
            "region": "local",
            "gpu_type": "cpu",
            "gpu_count": 1,
            "hyperparameters": hyperparameters,
            "wait": True,
            "max_cost": LIMIT if kind == "limited" else None,
        }
        if self.companion is not None:
            body["integrations"] = self.companion.integrations
        key = f"job-{self._made}"
        answer = self._paying(lambda: self._caller.send("/jobs", body, key=key, command="approve"))
        if not answer.ok and not self._workload.abandoned:
            raise RuntimeError(f"The gateway refused a job: {answer.body}")
        if answer.ok:
            script.job = str(UUID(answer.body["id"].removeprefix(PREFIX)))
            self._scripts.append(script)
            self._workload.record(command="script", job=script.job, script=kind)

    def _paying(self, ask: Callable[[], Answer]) -> Answer:
        """Send a command. If the balance is too low, top up and repeat it."""
        answer = ask()
        while answer.status == 402 and not self._workload.abandoned:
            missing = answer.body["error"]["figures"]["missing_micros"]
            self._top_up(missing if self._poor else missing + 20_000_000)
            answer = ask()
        return answer

    def _top_up(self, micros: int) -> None:
        """Pay an amount of whole cents that this account pays only once."""
        self._paid += 1
        cents = -(-micros // 10_000)
        cents += (self._paid - cents) % 100
        body = {"amount": f"{cents // 100}.{cents % 100:02d}"}
        key = f"top-up-{self._paid}"
        self._caller.send(
            "/account/top-ups", body, key=key, command="top_up", micros=cents * 10_000
        )

    def _advance(self, script: Script) -> None:
        view = self._view(script)
        if view is None or script.cancelled:
            return
        if script.kind == "long" and self._workload.stopping:
            self._cancel(script)
            return
        if view.status == "paused":
            if script.kind == "pause_cancel" and script.pauses:
                self._cancel(script)
            else:
                self._resume(script, view)
            return
        if script.kind == "cancel_queued":
            self._cancel(script)
            return
        now = time.monotonic()
        script.trained_since = (script.trained_since or now) if view.trains else None
        if script.trained_since is None or now - script.trained_since < script.patience:
            return
        if script.kind == "cancel":
            self._cancel(script)
        elif script.kind in ("pause_resume", "pause_cancel") and script.pauses == 0:
            script.pauses += 1
            self._caller.send(f"/jobs/{_public(script)}/pause", {}, job=script.job, command="pause")

    def _resume(self, script: Script, view: JobView) -> None:
        path = f"/jobs/{_public(script)}"
        if view.pause_reason == "max_cost":
            limit = {"max_cost": RAISED_LIMIT}
            self._caller.send(f"{path}/max-cost", limit, job=script.job, command="max_cost")
        self._paying(
            lambda: self._caller.send(
                f"{path}/resume", {"wait": True}, job=script.job, command="resume"
            )
        )

    def _cancel(self, script: Script) -> None:
        answer = self._caller.send(
            f"/jobs/{_public(script)}/cancel", {}, job=script.job, command="cancel"
        )
        script.cancelled = answer.ok


def _public(script: Script) -> str:
    assert script.job is not None
    return f"{PREFIX}{UUID(script.job).hex}"
