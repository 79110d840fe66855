"""A push of an export to a repository of a Hugging Face hub."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.core.aggregate import Aggregate, Created
from domain.core.errors import WrongState
from extensions.exports.domain.export import Export, ExportedFiles, ExportFormat


class PushStatus(StrEnum):
    """States of a push."""

    PENDING = "pending"  # waits or runs
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


class HubPush(Aggregate):
    """A push of an export. The repository's name and the token are no part of the events."""

    TOPIC: ClassVar[str] = "HubPush"

    class Event(Aggregate.Event):
        """Base class of the events of a push."""

    class PushRequested(Event, Created):
        """The account holder requested that an export be pushed to a hub."""

        export_id: UUID
        job_id: UUID  # job that trained the model
        model: str
        format: ExportFormat
        files: ExportedFiles

    class PushCompleted(Event):
        """All files are in the repository."""

        commit: str  # hash of the hub's commit

    class PushFailed(Event):
        """The files cannot be pushed. EcoLink does not retry."""

        code: str

    class PushStopped(Event):
        """The account holder stopped the push. EcoLink does not retry."""

    @classmethod
    def request(cls, id: UUID, export: Export) -> HubPush:
        """Return a new push of a ready export."""
        return cls._create(
            cls.PushRequested,
            id=id,
            account_id=export.account_id,
            export_id=export.id,
            job_id=export.job_id,
            model=export.model,
            format=export.format,
            files=export.files,
        )

    @event(PushRequested)
    def __init__(self, event: HubPush.PushRequested) -> None:
        self.account_id = event.account_id
        self.export_id = event.export_id
        self.job_id = event.job_id
        self.model = event.model
        self.format = event.format
        self.files = event.files
        self.status = PushStatus.PENDING

    def complete(self, commit: str) -> None:
        """Record the commit, if the push is pending."""
        if self.status is PushStatus.PENDING:
            self.trigger_event(self.PushCompleted, commit=commit)

    @event(PushCompleted)
    def _push_completed(self) -> None:
        self.status = PushStatus.COMPLETED

    def fail(self, code: str) -> None:
        """Record that the files cannot be pushed, if the push is pending."""
        if self.status is PushStatus.PENDING:
            self.trigger_event(self.PushFailed, code=code)

    @event(PushFailed)
    def _push_failed(self) -> None:
        self.status = PushStatus.FAILED

    def stop(self) -> None:
        """Stop the push, once. Raise WrongState if it has completed or failed."""
        if self.status is PushStatus.STOPPED:
            return
        if self.status is not PushStatus.PENDING:
            raise WrongState(f"The push is {self.status}. You can stop only a pending push.")
        self.trigger_event(self.PushStopped)

    @event(PushStopped)
    def _push_stopped(self) -> None:
        self.status = PushStatus.STOPPED
