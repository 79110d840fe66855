"""A request for a job whose files are still being validated or counted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event
from pydantic import JsonValue

from domain.core.aggregate import Aggregate, Created, Event
from domain.core.errors import DomainError, WrongState
from domain.core.identity import job_request_id
from domain.jobs.choices import Choices
from domain.training.hyperparameters import Hyperparameters
from domain.training.training_plan import Order


class RequestStatus(StrEnum):
    """States of a request. After the approval, only the state of the job changes."""

    VALIDATING_FILES = "validating_files"
    APPROVED = "approved"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Refusal:
    """The reason why a request was refused. `field` is the invalid field, if any."""

    code: str
    message: str
    field: str | None


class RequestEvent(Event):
    """Base class of all events of a job request."""

    job_id: UUID


class JobRequest(Aggregate):
    """A request for a job that starts once its files are ready. The wait is free of charge."""

    TOPIC: ClassVar[str] = "JobRequest"
    Event = RequestEvent

    class JobRequested(Order, RequestEvent, Created):
        """A user requested a job. Its price is unknown until its files' tokens are counted."""

        dataset_id: UUID
        validation_dataset_id: UUID | None  # None: the job holds out a part of the dataset
        base_model: str
        region: str | None  # None: EcoLink chooses it at approval; the same applies to the GPU type
        gpu_type: str | None
        gpu_count: int
        hyperparameters: dict[str, JsonValue]

    class JobRequestApproved(RequestEvent):
        """The files are ready, and the balance covers the estimate. EcoLink approved the job."""

    class JobRequestRefused(RequestEvent):
        """A job cannot train on one of the files, or the job failed a check."""

        code: str
        message: str  # contains no text from a file
        field: str | None

    class JobRequestCancelled(RequestEvent):
        """The owner cancelled the request before it was approved."""

    @classmethod
    def ordered(cls, job_id: UUID, account_id: UUID, choices: Choices, order: Order) -> JobRequest:
        """Return a new request for a job. The region and the GPU type may be empty."""
        return cls._create(
            cls.JobRequested,
            id=job_request_id(job_id),
            account_id=account_id,
            job_id=job_id,
            dataset_id=choices.dataset_id,
            validation_dataset_id=choices.validation_dataset_id,
            base_model=choices.base_model,
            region=choices.region or None,
            gpu_type=choices.gpu_type or None,
            gpu_count=choices.gpu_count,
            hyperparameters=choices.hyperparameters.stored,
            **dict(order),
        )

    @event(JobRequested)
    def __init__(self, event: JobRequest.JobRequested) -> None:
        self.account_id = event.account_id
        self.actor = event.actor
        self.job_id = event.job_id
        self.hyperparameters = event.hyperparameters
        self.choices = Choices(
            event.dataset_id,
            event.base_model,
            event.region or "",  # empty: EcoLink chooses it at approval
            event.gpu_type or "",
            event.gpu_count,
            Hyperparameters.recorded(event.hyperparameters),
            event.validation_dataset_id,
        )
        self.order = event.part(Order)
        self.status = RequestStatus.VALIDATING_FILES
        self.refusal: Refusal | None = None

    @property
    def is_open(self) -> bool:
        """True until the request is approved, refused or cancelled."""
        return self.status is RequestStatus.VALIDATING_FILES

    def approve(self) -> None:
        """Record that the job was approved, unless the request has ended."""
        if self.status is not RequestStatus.APPROVED:
            self._require_open("approved")
            self.trigger_event(self.JobRequestApproved, job_id=self.job_id)

    @event(JobRequestApproved)
    def _job_request_approved(self) -> None:
        self.status = RequestStatus.APPROVED

    def refuse(self, refusal: DomainError) -> None:
        """Record why the request was refused. The message must not quote a file."""
        self._require_open("refused")
        self.trigger_event(
            self.JobRequestRefused,
            job_id=self.job_id,
            code=refusal.code,
            message=refusal.message,
            field=refusal.field,
        )

    @event(JobRequestRefused)
    def _job_request_refused(self, code: str, message: str, field: str | None) -> None:
        self.status = RequestStatus.FAILED
        self.refusal = Refusal(code, message, field)

    def cancel(self) -> None:
        """Cancel the request. Raise WrongState if it was approved or refused."""
        if self.status is not RequestStatus.CANCELLED:
            self._require_open("cancelled")
            self.trigger_event(self.JobRequestCancelled, job_id=self.job_id)

    @event(JobRequestCancelled)
    def _job_request_cancelled(self) -> None:
        self.status = RequestStatus.CANCELLED

    def _require_open(self, command: str) -> None:
        if not self.is_open:
            raise WrongState(f"The job is {self.status} and cannot be {command}.")
