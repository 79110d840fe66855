"""The NATS connection of the trainer, for reports, telemetry, log lines and Control messages."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, Self

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.lifecycle import SegmentEnd
from domain.jobs.segments import SegmentEnding
from domain.training.checkpoint import KEPT_NEWEST, SavedCheckpoint, superfluous
from domain.training.phases import Phase
from infrastructure.bus.exchange import read
from infrastructure.bus.keys import signer
from infrastructure.bus.streams import CONTROL, servers
from infrastructure.bus.tls import tls_context, tls_problem
from infrastructure.training.customer_log import without_paths
from infrastructure.training.reports import (
    BEAT,
    FINAL_REPORT,
    Control,
    EvaluationMeasured,
    LogLine,
    Report,
    SegmentSpec,
    StepMeasured,
    control_subject,
)
from infrastructure.training.segment_credentials import inbox_prefix
from services.trainer.clock import PhaseTimes
from services.trainer.lease import Lease
from services.trainer.store_keys import StoreKeys
from services.trainer.stored_report import StoredReport
from services.trainer.unsent import Unsent

ACK_SECONDS = 2
RECONNECT_SECONDS = 0.25
FINAL_REPEAT_SECONDS = 1.0
FINAL_POLL_SECONDS = 0.1
ANSWER_LIMIT_SECONDS = 120.0
STOPPED_ANSWER_LIMIT_SECONDS = 3.0  # the scheduler may have stopped; the report is in the stream
CANCEL_SECONDS = 0.1
EXIT_SECONDS = 1.0  # part of the grace period that is reserved for the exit
OUTBOX_MESSAGES = 10_000  # limit while NATS is unreachable; the oldest are dropped
OUTBOX_BATCH = 256
LINGER_SECONDS = 2.0  # for the outbox, after the final report is acknowledged
LOG_TEXT_CHARACTERS = 2_500  # fit into MAX_MEASUREMENT_BYTES, even if JSON escapes them all

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


@dataclass(frozen=True)
class Outgoing:
    """A message that is not acknowledged yet."""

    key: str  # Nats-Msg-Id, by which the stream drops duplicates
    subject: str
    payload: bytes
    measured: StepMeasured | EvaluationMeasured | None = None  # None: a report or a log line


class Reporter:
    """A NATS connection in a separate thread, for which the training loop never waits.

    Reports are cumulative, so the next one replaces those that failed while NATS was unreachable.
    The reporter prints every acknowledged report to stdout as `report n=.. elapsed=..`.
    """

    def __init__(
        self,
        spec: SegmentSpec,
        lease: Lease,
        url: str,
        directory: Path,
        stored: StoredReport | None = None,
    ) -> None:
        self._spec, self._clock, self._lease, self._url = spec, lease.clock, lease, url
        self._tls_problem: str | None = None
        self._stored = stored  # None: the scheduler reads the file
        self._final_report, self._beat = directory / FINAL_REPORT, directory / BEAT
        self._key = {"account_id": spec.account_id, "job_id": spec.job_id, "segment": spec.segment}
        # The server closes a connection when its JWT expires. Control messages renew it.
        self._jwt = spec.credentials.jwt if spec.credentials else ""
        self._store_keys = StoreKeys(spec, directory)
        self._phases = PhaseTimes()
        phase = self._phases.present
        self._draft = Report(**self._key, n=0, sent_at=_now(), elapsed_seconds=0.0, phase=phase)
        # Other segments could otherwise guess the IDs of messages, and send them first.
        self._secret = token_hex(16)
        self._outbox: deque[Outgoing] = deque(maxlen=OUTBOX_MESSAGES)
        self._lock = threading.Lock()  # guards state shared with the training loop
        # Guards the file of the final report; the disk may be slow.
        self._writing = threading.Lock()
        self._needed: list[SavedCheckpoint] = []  # the newest and the best, oldest first
        self._log_lines = 0
        self._due_at = 0.0
        self._answered = threading.Event()
        self._answered_at: float | None = None  # time.monotonic()
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name="reporter", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._left.set)
        self._thread.join(timeout=EXIT_SECONDS / 2)

    @property
    def phase(self) -> Phase:
        return self._phases.present

    def enter(self, phase: Phase) -> None:
        with self._lock:
            self._phases.enter(phase, self._clock.elapsed())
        self.update(now=True, phase=phase)

    def update(self, *, now: bool = False, **fields: Any) -> None:
        """Change fields of the cumulative report. If `now` is true, send it immediately."""
        with self._lock:
            self._draft = self._draft.model_copy(update=fields)
        if now:
            self._due_at = 0.0
            self._loop.call_soon_threadsafe(self._wake.set)

    def measure(self, measured: StepMeasured | EvaluationMeasured) -> None:
        """Queue the telemetry of a step or an evaluation. Report the first step immediately."""
        is_step = isinstance(measured, StepMeasured)
        if is_step and self._draft.first_step_seconds is None:
            self.update(now=True, first_step_seconds=measured.elapsed_seconds)
        kind = "step" if is_step else "evaluation"
        self._queue(measured, f"{kind}:{measured.step}")

    @property
    def unsent(self) -> Unsent:
        """Metrics that the server has not acknowledged."""
        queued = [item.measured for item in tuple(self._outbox)]
        return Unsent(
            steps=tuple(each for each in queued if isinstance(each, StepMeasured)),
            evaluations=tuple(each for each in queued if isinstance(each, EvaluationMeasured)),
        )

    def resend(self, unsent: Unsent) -> None:
        """Queue the metrics that an earlier segment did not send, as those of this segment."""
        own = unsent.of(self._spec.segment, self._clock.elapsed())
        for each in own.steps:
            self._queue(each, f"step:{each.step}")
        for each in own.evaluations:
            self._queue(each, f"evaluation:{each.step}")

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        """Report a durable checkpoint, and earlier ones a resume may need, from any one thread."""
        _print(f"checkpoint step={checkpoint.step} elapsed={checkpoint.elapsed_seconds}")
        saved = [*self._needed, checkpoint]
        wanted = self._spec.hyperparameters.n_checkpoints or KEPT_NEWEST
        gone = superfluous(saved, max(wanted, KEPT_NEWEST))
        self._needed = [each for each in saved if each not in gone]
        with self._lock:
            times = self._times(self._clock.elapsed())
        self.update(now=True, checkpoint=checkpoint, earlier=tuple(self._needed[:-1]), **times)
        self._keep_final_report()

    def keep_for_operator(self, text: str) -> None:
        """Write a stack trace only to stdout, which the owner of the job cannot see."""
        _print(text.rstrip())

    def log(self, text: str, level: Level = "INFO") -> None:
        """Write a message for the owner of the job to stdout and NATS, without server paths."""
        for line in without_paths(text).splitlines():
            with self._lock:
                self._log_lines += 1
                n = self._log_lines
            _print(f"{level} {line}")
            message = LogLine(
                **self._key, n=n, level=level, text=line[:LOG_TEXT_CHARACTERS], logged_at=_now()
            )
            self._queue(message, f"log:{n}")

    def _queue(self, message: StepMeasured | EvaluationMeasured | LogLine, name: str) -> None:
        key = f"{self._secret}:{name}"
        measured = None if isinstance(message, LogLine) else message
        self._outbox.append(Outgoing(key, message.subject, _payload(message), measured))

    def finish(
        self,
        reason: SegmentEnd,
        error_class: str | None = None,
        failure: FailureClass | None = None,
        shortage: MemoryShortage | None = None,
    ) -> bool:
        """Send the final report until the scheduler acknowledges it. Return True if it does.

        The outbox gets up to 2 s more, because an acknowledgement may come before the metrics of
        the last steps are sent.
        The elapsed time is that of this call, so the wait for the acknowledgement is not billed.
        The wait ends after 120 s (3 s for a stopped segment), or when paid time and grace are used
        up.
        """
        times = self._times(self._clock.elapsed())
        ending = SegmentEnding(
            reason=reason,
            elapsed_seconds=int(times["elapsed_seconds"]),
            grace_seconds=int(times["grace_seconds"]),
            error_class=error_class,
            failure=failure,
            shortage=shortage,
            phase_seconds=times["phase_seconds"],
        )
        self.update(now=True, ending=ending, **times)
        self._keep_final_report()
        stopped = reason is SegmentEnd.STOPPED
        limit = STOPPED_ANSWER_LIMIT_SECONDS if stopped else ANSWER_LIMIT_SECONDS
        answered = self._answered.wait(self._at_most(limit))
        if self._stored is not None and not answered:
            self._stored.await_stored(self._at_most(limit))
        return answered

    def _at_most(self, seconds: float) -> float:
        """Limit real seconds to those until the process must exit."""
        remaining = self._clock.real_seconds(self._lease.remaining_seconds)
        return max(0.0, min(seconds, remaining - EXIT_SECONDS))

    def _times(self, elapsed_seconds: float) -> dict[str, Any]:
        return {
            "elapsed_seconds": elapsed_seconds,
            "phase_seconds": self._phases.until(elapsed_seconds),
            "grace_seconds": self._lease.grace_used(elapsed_seconds),
        }

    def _keep_final_report(self) -> None:
        """Write the report next to the spec, in case NATS is unreachable until the process ends.

        Also store it as an artifact if the scheduler cannot read this disk.
        """
        partial = self._final_report.with_suffix(".partial")
        with self._writing:  # the reports of two threads must not overtake each other
            content = _payload(self._draft)
            if self._stored is not None:
                self._stored.put(content)
            try:
                with partial.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                partial.rename(self._final_report)
            except OSError as error:  # the disk may be full; the report is still sent over NATS
                _print(f"WARNING the final report was not written: {error!r}")

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake, self._left = asyncio.Event(), asyncio.Event()
        task = asyncio.ensure_future(self._converse())
        self._ready.set()
        await self._left.wait()
        while not task.done():
            # Before Python 3.12, `asyncio.wait_for` loses a cancellation that arrives together
            # with the result.
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_SECONDS)

    async def _converse(self) -> None:
        while True:
            self._touch_beat()
            client, spec = Client(), self._spec
            context = tls_context(self._url, spec.nats_ca)
            try:
                await client.connect(
                    servers(self._url),
                    name=f"trainer {spec.job_id} {spec.segment}",
                    **self._user(),
                    inbox_prefix=inbox_prefix(spec.job_id, spec.segment),
                    tls=context,
                    error_cb=self._note_error,
                    max_reconnect_attempts=-1,
                    # Typed as int, but floats work.
                    reconnect_time_wait=RECONNECT_SECONDS,  # pyright: ignore[reportArgumentType]
                    connect_timeout=ACK_SECONDS,
                )
                while not client.is_closed:
                    await self._exchange(client)
            except (NatsError, OSError, TimeoutError) as error:
                _print(f"WARNING nats: {error!r}")
                await asyncio.sleep(RECONNECT_SECONDS)
            finally:
                await client.close()

    async def _note_error(self, error: Exception) -> None:
        """Print what to do if TLS fails, once. Other errors are repeated by a report."""
        problem = tls_problem(error)
        if problem is not None and problem != self._tls_problem:
            self._tls_problem = problem
            _print(f"WARNING nats: {problem}")

    def _user(self) -> dict[str, Any]:
        credentials = self._spec.credentials
        if credentials is None:
            return {}
        return {
            "user_jwt_cb": lambda: bytearray(self._jwt.encode()),
            "signature_cb": signer(credentials.seed),
        }

    async def _exchange(self, client: Client) -> None:
        """Receive, send what is due, and sleep until the next heartbeat or wake-up."""
        self._wake.clear()
        self._touch_beat()
        rest = RECONNECT_SECONDS
        if client.is_connected:
            js = client.jetstream(timeout=ACK_SECONDS)
            try:
                await self._receive(js)
                due = time.monotonic() >= self._due_at
                if due:
                    await self._report(js)  # before log lines, which the stream may reject
                if due or self._answered_at is not None:
                    await self._empty_outbox(js)
                rest = self._spec.heartbeat_seconds
            except (NatsError, TimeoutError) as error:
                _print(f"WARNING nats: {error!r}")
        if self._answered_at is not None:
            lingered = time.monotonic() - self._answered_at >= LINGER_SECONDS
            if lingered or not self._outbox:
                self._answered.set()
        if self._draft.ending is not None:
            rest = min(rest, FINAL_POLL_SECONDS)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), rest)

    def _touch_beat(self) -> None:
        with suppress(OSError):
            self._beat.touch()

    async def _receive(self, js: JetStreamContext) -> None:
        subject = control_subject(self._spec.job_id, self._spec.segment)
        try:
            message = await js.get_last_msg(CONTROL, subject, direct=True)
        except NotFoundError:
            return
        control = read(Control, message.data or b"")
        self._lease.apply(control)
        self._jwt = control.jwt or self._jwt
        if control.store is not None:
            with suppress(OSError):  # a full disk; the next heartbeat repeats it
                self._store_keys.renew(control.store)
        final = control.answered and self._draft.ending is not None
        if final and self._answered_at is None:
            self._answered_at = time.monotonic()

    async def _empty_outbox(self, js: JetStreamContext) -> None:
        """Publish the queue, oldest first. A message stays queued until it is acknowledged."""
        while batch := list(islice(self._outbox, OUTBOX_BATCH)):
            await asyncio.gather(*(_publish(js, item) for item in batch))
            sent = {item.key for item in batch}
            while self._outbox and self._outbox[0].key in sent:
                self._outbox.popleft()

    async def _report(self, js: JetStreamContext) -> None:
        report = self._next_report()
        # Set before publishing, so that an urgent update in the meantime is not lost.
        final = report.ending is not None
        self._due_at = time.monotonic() + (FINAL_REPEAT_SECONDS if final else 0.0)
        key = f"{self._secret}:{report.n}"
        try:
            await _publish(js, Outgoing(key, report.subject, _payload(report)))
        except BaseException:
            self._due_at = 0.0
            raise
        outcome = report.ending.reason.value if report.ending else "-"
        _print(
            f"report n={report.n} elapsed={report.elapsed_seconds:.3f} phase={report.phase.value} "
            f"step={report.step} grace={report.grace_seconds:.3f} outcome={outcome}"
        )

    def _next_report(self) -> Report:
        with self._lock:
            update: dict[str, Any] = {"n": self._draft.n + 1, "sent_at": _now()}
            if self._draft.ending is None:
                update |= self._times(self._clock.elapsed())
            self._draft = self._draft.model_copy(update=update)
            return self._draft


async def _publish(js: JetStreamContext, item: Outgoing) -> None:
    await js.publish(item.subject, item.payload, headers={"Nats-Msg-Id": item.key})


def _payload(message: Report | StepMeasured | EvaluationMeasured | LogLine) -> bytes:
    return message.model_dump_json().encode()


def _now() -> datetime:
    return datetime.now(UTC)


def _print(line: str) -> None:
    with suppress(OSError):  # the disk may be full
        print(line, flush=True)
