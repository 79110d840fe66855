"""A trial of the webhooks process: many events to a receiver that is killed again and again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

from openai import OpenAI

from deploy.migrate import create_streams
from deploy.processes import environment
from domain.core.event_log import EventLog
from domain.jobs.job import Job
from extensions.notifications.domain.message import Message, message_of
from extensions.notifications.webhooks.endpoints import create_endpoint
from infrastructure.bus.consumer import recorded
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, PLAN
from tests.extensions.notifications.receiving import Receiver
from tests.logs import notifications
from tests.polling import eventually

SPEED = 240.0
"""Speed of the platform's clock, so that the first delays take fractions of a second."""

COMMITTED_JOBS = 10
DEADLINE_SECONDS = 600.0  # generous, because the machine may be busy


@dataclass(frozen=True)
class Trial:
    """Sizes of a trial."""

    jobs: int
    messages_per_job: int
    kills: int
    service_kills: int
    seed: int = 1

    @property
    def messages(self) -> int:
        return self.jobs * self.messages_per_job


@dataclass(frozen=True)
class Outcome:
    """The messages that the receiver accepted."""

    messages: int
    distinct: int
    requests: int
    invalid: int
    """Requests whose signature the openai client refuses, or whose body has another ID."""
    out_of_order: int
    """Messages whose first request came before that of an earlier message of their job."""
    seconds: float

    @property
    def holds(self) -> bool:
        """True if every message came, in order, with one ID and a valid signature."""
        return self.distinct == self.messages and not (self.invalid or self.out_of_order)


def fast(settings: Settings) -> Settings:
    """Return settings with a fast clock and a permitted receiver on this machine."""
    changes = {
        "clock_speed": SPEED,
        "clock_origin": datetime.now(UTC),
        "webhook_networks": "127.0.0.0/8",
        "webhook_http": True,
    }
    return settings.model_copy(update=changes)


class Process:
    """A process of the stack, which can be killed and started again."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self._name = settings, name
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "deploy.run", self._name]
        variables = os.environ | environment(self._settings)
        self._process = subprocess.Popen(command, env=variables)

    @property
    def leads(self) -> bool:
        """True if the process, and no earlier one, leads."""
        assert self._process is not None
        with connect(self._settings) as connection:
            row = connection.execute(
                "SELECT FROM leaderships WHERE name = %s AND pid = %s",
                [self._name, self._process.pid],
            ).fetchone()
        return row is not None

    def kill(self) -> None:
        """End the process with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """End the process with SIGTERM. Return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait()


@contextmanager
def running(settings: Settings, name: str) -> Iterator[Process]:
    """Run a process of the stack during the block."""
    create_streams(settings)
    process = Process(settings, name)
    process.start()
    try:
        yield process
    finally:
        process.kill()


def pause_again_and_again(log: EventLog, trial: Trial) -> None:
    """Append jobs that are paused and resumed. Each pause is a message."""
    jobs: list[Job] = []
    with command("pauses"):
        for _ in range(trial.jobs):
            job = Job.approve(uuid4(), ACCOUNT_ID, PLAN, ESTIMATE)
            for number in range(trial.messages_per_job):
                if number:
                    job.resume(ESTIMATE, PLAN.rate_micros_per_hour, "test", job.gpu_count)
                job.pause()
            jobs.append(job)
            if len(jobs) == COMMITTED_JOBS:
                log.commit(*jobs)
                jobs = []
        log.commit(*jobs)


def run_trial(settings: Settings, log: EventLog, folder: Path, trial: Trial) -> Outcome:
    """Deliver messages of real processes while the receiver and the service are killed.

    The kills are spread over the deliveries: each comes after a random share of the messages that
    are left.
    """
    random, receiver = Random(trial.seed), Receiver(folder)
    settings = fast(settings)
    with connect(settings) as connection:
        _, secret = create_endpoint(connection, ACCOUNT_ID, receiver.url, "", (), datetime.now(UTC))
    with running(settings, "relay"), running(settings, "webhooks") as service:
        receiver.start()
        pause_again_and_again(log, trial)
        expected = expected_messages(log)
        assert len(expected) == trial.messages
        began = time.monotonic()
        victims = [True] * trial.kills + [False] * trial.service_kills
        random.shuffle(victims)
        for number, is_receiver in enumerate(victims):
            left = trial.messages * (number + random.random()) / (len(victims) + 1)
            _await_distinct(receiver, round(left))
            victim = receiver if is_receiver else service
            victim.kill()
            time.sleep(random.uniform(0, 0.2))
            victim.start()
        _await_distinct(receiver, trial.messages)
        seconds = time.monotonic() - began
        eventually(lambda: not _pending(settings), DEADLINE_SECONDS)
        eventually(lambda: service.leads, DEADLINE_SECONDS)
        assert service.stop() == 0
    receiver.kill()
    return judged(receiver, expected, secret, seconds)


def expected_messages(log: EventLog) -> list[Message]:
    """Return the messages of the whole log, in order."""
    found = (message_of(recorded(log, each), str, str) for each in notifications(log))
    return [each for each in found if each is not None]


def judged(receiver: Receiver, expected: list[Message], secret: str, seconds: float) -> Outcome:
    """Compare the requests with the messages."""
    client, requests = OpenAI(api_key="unused"), receiver.received()
    invalid, first = 0, dict[str, int]()
    for number, each in enumerate(requests):
        try:
            # Old requests are verified too, so their age does not count.
            client.webhooks.verify_signature(
                each.body, each.headers, secret=secret, tolerance=10**6
            )
            invalid += each.event["id"] != each.id
        except ValueError:
            invalid += 1
        first.setdefault(each.id, number)
    by_job: dict[str, list[int]] = defaultdict(list)
    for message in expected:
        by_job[message.order_key].append(first.get(message.id, -1))
    wrong = sum(
        later < earlier for places in by_job.values() for earlier, later in pairwise(places)
    )
    known = {each.id for each in expected}
    return Outcome(len(expected), len(known & first.keys()), len(requests), invalid, wrong, seconds)


def _await_distinct(receiver: Receiver, count: int) -> None:
    eventually(lambda: len({each.id for each in receiver.received()}) >= count, DEADLINE_SECONDS)


def _pending(settings: Settings) -> list[UUID]:
    with connect(settings) as connection:
        rows = connection.execute(
            "SELECT endpoint_id FROM webhook_deliveries WHERE status <> 'delivered'"
        ).fetchall()
    return [row["endpoint_id"] for row in rows]
