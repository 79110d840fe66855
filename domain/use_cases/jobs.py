"""Use cases of jobs: request, approve, pause, resume, cancel and promote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from domain.billing.account import Account
from domain.billing.spending import committed_micros
from domain.capacity.availability import PoolLoad, require_capacity
from domain.core.actor import acting_key
from domain.core.aggregate import current_cause
from domain.core.errors import CommandReused, DomainError, InsufficientBalance, NotFound, WrongState
from domain.core.event_log import EventLog, retrying
from domain.core.identity import created_id, job_request_id
from domain.core.money import Toward, dollars
from domain.estimating.estimate import Estimate
from domain.jobs.choices import Choices
from domain.jobs.guarantee import Guarantee
from domain.jobs.job import Job
from domain.jobs.job_request import JobRequest, RequestStatus
from domain.training.training_plan import Order
from domain.use_cases.quoting import Quote, Quoting
from domain.use_cases.spending_limits import CostRange, SpendingLimits

Loads = Callable[[], Sequence[PoolLoad]]
"""A function that returns the load of every GPU pool, called only if the job must not wait."""

Room = Callable[[UUID], AbstractContextManager[None]]
"""A context in which another job of an account may be saved. Raises an error at its limit."""

REUSED = "You already used this idempotency key for another job. Use a new key."


class Launching:
    """Use cases of a job's owner. Each command must run inside `because(cause)`."""

    def __init__(
        self,
        log: EventLog,
        quoting: Quoting,
        limits: SpendingLimits,
        retention: timedelta,
        room: Room = lambda _: nullcontext(),
        guarantee_factor: float = 0,
    ) -> None:
        """`guarantee_factor` limits a job's time, as a multiple of the estimated upper bound."""
        self.log = log
        self._room = room
        self._quoting = quoting
        self._limits = limits
        self._retention = retention
        self._guarantee_factor = guarantee_factor

    @retrying
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
        """Approve a job, once for each command key.

        Raise CommandReused if the command key was used with other choices, and Suspended for a
        suspended account. Raise SpendingLimitReached if a budget leaves less than a minute. Raise
        InsufficientBalance if the balance is below the estimate's upper bound and the maximum cost.
        Unless `wait` is true, raise NoCapacity if too few GPUs are free.
        """
        job_id = created_id(account_id, "job", command_key)
        existing, request = self.log.find(Job, job_id), self._request_for(job_id)
        if request is not None and request.order != order:
            raise CommandReused(REUSED)
        if existing is not None:
            _require_same(existing, self._resolved(existing, choices), order)
            return existing
        choices = self._quoting.resolved(account_id, choices)
        if request is not None:
            known, asked = request.choices.recorded, choices.recorded
            if order.request_sha256 is None and known != asked:
                raise CommandReused(REUSED)
            request.approve()
        job = self._gated(job_id, account_id, choices, order, None if wait else loads)
        with self._room(account_id) if request is None else nullcontext():  # it has its place
            self.log.commit(*filter(None, (request, job)))
        return job

    @retrying
    def approve_requested(self, job_id: UUID, choices: Choices) -> None:
        """Approve the job of an open request. `choices` complete those of the request."""
        request = self._request_for(job_id)
        if request is None or not request.is_open:
            return
        job = self.log.find(Job, job_id)
        if job is None:
            job = self._gated(job_id, request.account_id, choices, request.order, None)
        # This event turns a simultaneous cancellation into a version conflict.
        request.approve()
        self.log.commit(request, job)

    @retrying
    def request(
        self, account_id: UUID, command_key: str, choices: Choices, order: Order
    ) -> JobRequest:
        """Request a job whose files are not ready yet, once for each command key."""
        job_id = created_id(account_id, "job", command_key)
        if self.made_before(account_id, command_key, order.request_sha256) is None:
            self.log.load(Account, account_id).require_active()
            choices = self._quoting.resolved(account_id, choices)
            with self._room(account_id):
                self.log.commit(JobRequest.ordered(job_id, account_id, choices, order))
        return self.log.load(JobRequest, job_request_id(job_id))

    @retrying
    def refuse_requested(self, job_id: UUID, refusal: DomainError) -> None:
        """Refuse a request, if it is still open."""
        request = self._request_for(job_id)
        if request is not None and request.is_open:
            request.refuse(refusal)
            self.log.commit(request)

    def requested(self, account_id: UUID, job_id: UUID) -> JobRequest | None:
        """Return an account's request that has not become a job, or None."""
        request = self._request_for(job_id)
        if (
            request is None
            or request.account_id != account_id
            or request.status is RequestStatus.APPROVED
        ):
            return None
        return None if self.log.find(Job, job_id) is not None else request

    def made_before(
        self, account_id: UUID, command_key: str, request_sha256: str | None
    ) -> UUID | None:
        """Return the job of this command, or None. Raise CommandReused for another request."""
        job_id = created_id(account_id, "job", command_key)
        existing = self.log.find(Job, job_id) or self._request_for(job_id)
        if existing is None:
            return None
        if existing.order.request_sha256 != request_sha256:
            raise CommandReused(REUSED)
        return job_id

    def pause(self, account_id: UUID, job_id: UUID) -> Job:
        """Pause a job. Raise WrongState if its state does not allow it."""
        return self._command(account_id, job_id, lambda job: job.pause())

    def resume(
        self,
        account_id: UUID,
        job_id: UUID,
        *,
        wait: bool,
        loads: Loads,
        gpu_count: int | None = None,
        needed_micros: int | None = None,
    ) -> Job:
        """Resume a job from its last checkpoint, at the current rate.

        `needed_micros` is the cost of the remaining work that the owner saw. Raise WrongState if it
        is higher now.

        `gpu_count` changes the number of GPUs, but not the examples in a step; None keeps the
        number. Raise Suspended for a suspended account. Raise SpendingLimitReached if the maximum
        cost leaves less than a second, or a budget less than a minute. Raise InsufficientBalance if
        the balance is below the upper bound of the remaining work and the rest of the maximum cost.
        Unless `wait` is true, raise NoCapacity if too few GPUs are free.
        """

        def command(job: Job) -> None:
            if not job.must_resume():
                return
            self.log.load(Account, account_id).require_active()
            quote = self._quoting.rest_of(job, gpu_count)
            plan = quote.plan
            left = self._limits.require_left_of_max_cost(job, plan.rate_micros_per_hour)
            cost = CostRange.of(quote.estimate, left)
            if needed_micros is not None and cost.high_micros > needed_micros:
                raise WrongState(
                    "The rest of the job now costs more than was shown, at most "
                    f"{dollars(cost.high_micros, Toward.UP)}. Check this amount, and resume again."
                )
            self._require_funds(account_id, cost)
            if not wait:
                self._require_capacity(quote, loads)
            job.resume(
                quote.estimate,
                plan.rate_micros_per_hour,
                plan.catalog_version,
                plan.gpu_count,
                self._guarantee_of_resume(job, quote.estimate),
            )

        return self._command(account_id, job_id, command)

    def _guarantee_of_resume(self, job: Job, rest: Estimate) -> Guarantee | None:
        """Add the upper bound of a resume to the charges so far.

        Until the last segment is settled, its whole lease counts as charged, or all of its time.
        """
        paid = min(committed_micros(self.log, job.id, job.segment), job.usage.paid_micros)
        return Guarantee.of(rest, self._guarantee_factor, paid, job.usage.paid_seconds)

    def change_max_cost(self, account_id: UUID, job_id: UUID, max_cost_micros: int | None) -> Job:
        """Change or remove (None) the maximum cost."""
        return self._command(account_id, job_id, lambda job: job.change_max_cost(max_cost_micros))

    def cancel(self, account_id: UUID, job_id: UUID) -> Job:
        """Cancel a job. EcoLink keeps its checkpoints for the retention time."""
        return self._command(account_id, job_id, lambda job: job.cancel(self._retention))

    @retrying
    def cancel_requested(self, account_id: UUID, job_id: UUID) -> None:
        """Cancel a job, or its request if the request is still open."""
        if (request := self.requested(account_id, job_id)) is None:
            self.cancel(account_id, job_id)
            return
        request.cancel()
        self.log.commit(request)

    def promote(self, account_id: UUID, job_id: UUID) -> Job:
        """Register the last checkpoint of a cancelled or failed job as a model."""
        return self._command(account_id, job_id, lambda job: job.promote())

    @retrying
    def _command(self, account_id: UUID, job_id: UUID, command: Callable[[Job], None]) -> Job:
        job = self.log.find(Job, job_id)
        if job is None and (request := self.requested(account_id, job_id)) is not None:
            then = "Wait until it is queued." if request.is_open else "Create another job."
            raise WrongState(f"The job is {request.status} and was never approved. {then}")
        if job is None or job.account_id != account_id:
            raise NotFound(f"Unknown job {job_id}. See `ecolink jobs list`.")
        command(job)
        self.log.commit(job)
        return job

    def _resolved(self, existing: Job, choices: Choices) -> Choices:
        """Resolve the choices of a repeated command. The model that it continues may be deleted."""
        plan = existing.plan
        try:
            if plan.start is None:
                return self._quoting.resolved(existing.account_id, choices)
            tuned = self._quoting.continued_shape(choices.hyperparameters, plan, plan.start.model)
            return replace(choices, hyperparameters=tuned)
        except DomainError:
            return choices

    def _request_for(self, job_id: UUID) -> JobRequest | None:
        return self.log.find(JobRequest, job_request_id(job_id))

    def _gated(
        self, job_id: UUID, account_id: UUID, choices: Choices, order: Order, loads: Loads | None
    ) -> Job:
        self.log.load(Account, account_id).require_active()
        quote = self._quoting.quote(account_id, choices)
        self._require_funds(account_id, CostRange.of(quote.estimate, order.max_cost_micros))
        if loads is not None:
            self._require_capacity(quote, loads)
        return Job.approve(
            job_id, account_id, quote.plan, quote.estimate, order, self._guarantee_factor
        )

    def _require_funds(self, account_id: UUID, cost: CostRange) -> None:
        """Raise SpendingLimitReached or InsufficientBalance if a job must not start."""
        cause = current_cause()
        key_id, today = acting_key(cause.actor), cause.now.date()
        self._limits.require_left_of_budgets(account_id, key_id, cost, today)
        account, needed = self.log.load(Account, account_id), cost.high_micros
        balance = account.balance_micros
        if not account.can_pay(needed, released_micros=account.reserved_micros):
            bound = "maximum cost allows" if cost.capped else "upper bound of the estimate is"
            raise InsufficientBalance(
                f"The balance is {dollars(balance)}, but the {bound} {dollars(needed, Toward.UP)}. "
                f"Top up {dollars(needed - balance, Toward.UP)} first.",
                figures={
                    "balance_micros": balance,
                    "needed_micros": needed,
                    "missing_micros": needed - balance,
                },
            )

    def _require_capacity(self, quote: Quote, loads: Loads) -> None:
        plan = quote.plan
        suitable = [
            load
            for load in loads()
            if load.gpu_type == plan.gpu_type or load.gpu_type in quote.alternatives
        ]
        names = self._quoting.display_names
        require_capacity(suitable, plan.region, plan.gpu_type, plan.gpu_count, names)


def _require_same(existing: Job, choices: Choices, order: Order) -> None:
    """Raise CommandReused for another request: compare hashes, or else choices and order."""
    same = existing.order == order
    if order.request_sha256 is None:
        same = same and existing.plan.choices == choices.recorded
    if not same:
        raise CommandReused(REUSED)
