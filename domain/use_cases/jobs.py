"""Launching a job and what follows: the gates, approve, pause, resume, cancel, promote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from domain.billing.account import Account
from domain.capacity.availability import PoolLoad, require_capacity
from domain.core.errors import CommandReused, DomainError, InsufficientBalance, NotFound, WrongState
from domain.core.event_log import EventLog
from domain.core.identity import created_id, job_request_id
from domain.core.money import Toward, dollars
from domain.estimating.estimate import Estimate
from domain.jobs.choices import Choices
from domain.jobs.job import Job
from domain.jobs.job_request import JobRequest, RequestStatus
from domain.training.training_plan import Order
from domain.use_cases.quoting import Quote, Quoting

Loads = Callable[[], Sequence[PoolLoad]]
"""Every GPU pool with what runs and waits there; asked for only when a job would not wait."""

REUSED = "this idempotency key was used for a different job"


class Launching:
    """The use cases of a job's owner. Each command runs inside `because(cause)`."""

    def __init__(self, log: EventLog, quoting: Quoting, retention: timedelta) -> None:
        self._log = log
        self._quoting = quoting
        self._retention = retention

    def approve(
        self,
        account_id: UUID,
        command_key: str,
        choices: Choices,
        *,
        wait: bool,
        loads: Loads,
        order: Order = Order(),
    ) -> Job:
        """Start a job; the same command key makes the same job, with other choices it is refused.

        Two gates stand before it: the balance must cover the estimate's upper bound
        (InsufficientBalance), and unless `wait`, the GPUs must be free (NoCapacity).
        """
        job_id = created_id(account_id, "job", command_key)

        def attempt() -> Job:
            existing, request = self._log.find(Job, job_id), self._request_for(job_id)
            if request is not None and request.order != order:
                raise CommandReused(REUSED)
            if existing is not None:
                _require_same(existing, choices, order)
                return existing
            if request is not None:
                request.approve()
            job = self._gated(job_id, account_id, choices, order, None if wait else loads)
            self._log.commit(*filter(None, (request, job)))
            return job

        return self._log.retrying(attempt)

    def approve_requested(self, job_id: UUID, choices: Choices) -> None:
        """Start the job of an open request, which ends with it; one that has ended stays as it is.

        `choices` are the request's, with GPUs where it left them open. The balance gate stands
        before it: raises InsufficientBalance. The job waits for its GPUs.
        """

        def attempt() -> None:
            request = self._request_for(job_id)
            if request is None or not request.is_open:
                return
            job = self._log.find(Job, job_id)
            if job is None:
                job = self._gated(job_id, request.account_id, choices, request.order, None)
            # With an event of its own on the request, a cancellation at this moment is a conflict.
            request.approve()
            self._log.commit(request, job)

        self._log.retrying(attempt)

    def request(self, account_id: UUID, command_key: str, choices: Choices, order: Order) -> None:
        """Order a job whose files are not ready; the same command key makes one request."""
        job_id = created_id(account_id, "job", command_key)

        def attempt() -> None:
            if self.made_before(account_id, command_key, order.request_sha256) is None:
                self._log.commit(JobRequest.ordered(job_id, account_id, choices, order))

        self._log.retrying(attempt)

    def refuse_requested(self, job_id: UUID, refusal: DomainError) -> None:
        """End an open request with a refusal; one that has ended stays as it is."""

        def attempt() -> None:
            request = self._request_for(job_id)
            if request is not None and request.is_open:
                request.refuse(refusal)
                self._log.commit(request)

        self._log.retrying(attempt)

    def requested(self, account_id: UUID, job_id: UUID) -> JobRequest | None:
        """An account's request that has no job: it is open, or ended without one."""
        request = self._request_for(job_id)
        if (
            request is None
            or request.account_id != account_id
            or request.status is RequestStatus.APPROVED
        ):
            return None
        return None if self._log.find(Job, job_id) is not None else request

    def made_before(
        self, account_id: UUID, command_key: str, request_sha256: str | None
    ) -> UUID | None:
        """The id of the job that the same request ordered before; raises CommandReused."""
        job_id = created_id(account_id, "job", command_key)
        existing = self._log.find(Job, job_id) or self._request_for(job_id)
        if existing is None:
            return None
        if existing.order.request_sha256 != request_sha256:
            raise CommandReused(REUSED)
        return job_id

    def pause(self, account_id: UUID, job_id: UUID) -> Job:
        """Save and free the GPUs; raises WrongState with what would work instead."""
        return self._command(account_id, job_id, lambda job: job.pause())

    def resume(
        self,
        account_id: UUID,
        job_id: UUID,
        *,
        wait: bool,
        loads: Loads,
        gpu_count: int | None = None,
    ) -> Job:
        """Go on from the latest checkpoint, at today's rate, through both gates anew.

        With another `gpu_count` than before (None), what a step trains on stays the same.
        """

        def command(job: Job) -> None:
            if not job.must_resume():
                return
            quote = self._quoting.rest_of(job, gpu_count)
            self._require_balance(account_id, quote.estimate)
            plan = quote.plan
            if not wait:
                self._require_capacity(quote, loads)
            job.resume(
                quote.estimate, plan.rate_micros_per_hour, plan.catalog_version, plan.gpu_count
            )

        return self._command(account_id, job_id, command)

    def cancel(self, account_id: UUID, job_id: UUID) -> Job:
        """Stop for good; what was checkpointed is kept for the retention time."""
        return self._command(account_id, job_id, lambda job: job.cancel(self._retention))

    def cancel_requested(self, account_id: UUID, job_id: UUID) -> None:
        """Cancel a job that may still be a request; raises NotFound and WrongState."""

        def attempt() -> None:
            if (request := self.requested(account_id, job_id)) is None:
                self.cancel(account_id, job_id)
                return
            request.cancel()
            self._log.commit(request)

        self._log.retrying(attempt)

    def promote(self, account_id: UUID, job_id: UUID) -> Job:
        """Make a registered model of what a cancelled or failed job had checkpointed."""
        return self._command(account_id, job_id, lambda job: job.promote())

    def _command(self, account_id: UUID, job_id: UUID, command: Callable[[Job], None]) -> Job:
        def attempt() -> Job:
            job = self._log.find(Job, job_id)
            if job is None and (request := self.requested(account_id, job_id)) is not None:
                then = "wait until it is queued" if request.is_open else "create another job"
                raise WrongState(f"the job is {request.status} and was never approved; {then}")
            if job is None or job.account_id != account_id:
                raise NotFound(f"no job {job_id}")
            command(job)
            self._log.commit(job)
            return job

        return self._log.retrying(attempt)

    def _request_for(self, job_id: UUID) -> JobRequest | None:
        return self._log.find(JobRequest, job_request_id(job_id))

    def _gated(
        self, job_id: UUID, account_id: UUID, choices: Choices, order: Order, loads: Loads | None
    ) -> Job:
        """A job that passes the balance gate, and the capacity gate if there are `loads`."""
        quote = self._quoting.quote(account_id, choices)
        self._require_balance(account_id, quote.estimate)
        if loads is not None:
            self._require_capacity(quote, loads)
        return Job.approve(job_id, account_id, quote.plan, quote.estimate, order)

    def _require_balance(self, account_id: UUID, wanted: Estimate) -> None:
        """The balance gate: raises InsufficientBalance with both figures."""
        balance, needed = self._log.load(Account, account_id).balance_micros, wanted.high_micros
        if balance < needed:
            raise InsufficientBalance(
                f"the balance is {dollars(balance)}, the upper bound of the estimate is "
                f"{dollars(needed, Toward.UP)}; top up {dollars(needed - balance, Toward.UP)} "
                "first",
                figures={
                    "balance_micros": balance,
                    "needed_micros": needed,
                    "missing_micros": needed - balance,
                },
            )

    def _require_capacity(self, quote: Quote, loads: Loads) -> None:
        """The capacity gate; what is free elsewhere is named only if the job would fit there."""
        plan = quote.plan
        suitable = [
            load
            for load in loads()
            if load.gpu_type == plan.gpu_type or load.gpu_type in quote.alternatives
        ]
        names = self._quoting.display_names
        require_capacity(suitable, plan.region, plan.gpu_type, plan.gpu_count, names)


def _require_same(existing: Job, choices: Choices, order: Order) -> None:
    """A request that chooses the GPUs anew each time is known by its own hash alone."""
    same = existing.order == order
    if order.request_sha256 is None:
        same = same and existing.plan.choices == choices.recorded
    if not same:
        raise CommandReused(REUSED)
