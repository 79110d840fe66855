"""An export: the merged weights of a fine-tuned model in one format."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar
from uuid import UUID, uuid5

from eventsourcing.domain import event

from domain.core.aggregate import Aggregate, Created, Notified
from domain.core.value import Value


class ExportFormat(StrEnum):
    """Formats of an export."""

    SAFETENSORS = "safetensors"
    """Merged weights, which transformers and vLLM load."""
    GGUF_F16 = "gguf-f16"
    """A GGUF file with weights in float16, for llama.cpp and Ollama."""
    GGUF_Q8_0 = "gguf-q8_0"
    """A GGUF file with weights in 8 bits."""

    @property
    def is_gguf(self) -> bool:
        """True for GGUF files."""
        return self is not ExportFormat.SAFETENSORS


class ExportStatus(StrEnum):
    """States of an export."""

    PENDING = "pending"  # waits or runs
    READY = "ready"
    FAILED = "failed"
    EXPIRED = "expired"  # the retention time has ended, and EcoLink deleted the files
    DELETED = "deleted"

    @property
    def is_wanted(self) -> bool:
        """True if files exist or will exist."""
        return self in (ExportStatus.PENDING, ExportStatus.READY)


def export_id(job_id: UUID, format: str) -> UUID:
    """Return the ID of the export of a job's model in a format."""
    return uuid5(job_id, f"export:{format}")


class ExportSource(Value):
    """The weights to merge."""

    base_model: str
    base_ref: str  # artifact prefix of the base model
    base_manifest_sha256: str
    adapter_ref: str  # artifact prefix of the adapter
    adapter_manifest_sha256: str


class ExportedFiles(Value):
    """The files of a completed export. Their manifest pins the content of every file."""

    ref: str  # artifact prefix
    manifest_sha256: str
    total_bytes: int


class Export(Aggregate):
    """An export of a fine-tuned model. A model has at most one in each format.

    After a failure, or when its files are deleted, an export can be requested again.
    """

    TOPIC: ClassVar[str] = "Export"

    class Event(Aggregate.Event):
        """Base class of the events of an export."""

    class ExportRequested(Event, Created):
        """The account holder requested a model in another format."""

        job_id: UUID  # job that trained the model
        model: str
        format: ExportFormat
        source: ExportSource

    class ExportRenewed(Event):
        """The account holder requested the export again, after a failure or a deletion."""

        source: ExportSource
        attempt: int

    class ExportCompleted(Event, Notified):
        """All files of the export are stored."""

        MESSAGE: ClassVar[str] = "export.completed"

        model: str
        format: ExportFormat
        files: ExportedFiles
        libraries: dict[str, str]  # versions of the libraries that wrote the files
        expires_at: datetime | None  # None: kept until it is deleted

        @property
        def message_data(self) -> dict[str, str]:
            """Data of the message."""
            return {"id": str(self.originator_id), "model": self.model, "format": self.format}

    class ExportFailed(Event, Notified):
        """The model cannot be exported. EcoLink does not retry until it is requested again."""

        MESSAGE: ClassVar[str] = "export.failed"

        model: str
        format: ExportFormat
        code: str
        message: str

        @property
        def message_data(self) -> dict[str, str]:
            """Data of the message."""
            data = {"id": str(self.originator_id), "model": self.model, "format": self.format}
            return data | {"code": self.code}

    class ExportExpired(Event):
        """The retention time ended. EcoLink deletes the files."""

    class ExportDeleted(Event):
        """The export or its model was deleted. EcoLink deletes the files."""

    @classmethod
    def request(
        cls, account_id: UUID, job_id: UUID, model: str, format: ExportFormat, source: ExportSource
    ) -> Export:
        """Return the first export of a job's model in a format."""
        return cls._create(
            cls.ExportRequested,
            id=export_id(job_id, format),
            account_id=account_id,
            job_id=job_id,
            model=model,
            format=format,
            source=source,
        )

    @event(ExportRequested)
    def __init__(
        self, account_id: UUID, job_id: UUID, model: str, format: ExportFormat, source: ExportSource
    ) -> None:
        self.account_id = account_id
        self.job_id = job_id
        self.model = model
        self.format = format
        self.source = source
        self.attempt = 1
        self.status = ExportStatus.PENDING
        self.files: ExportedFiles | None = None
        self.expires_at: datetime | None = None

    @property
    def home(self) -> str:
        """Artifact prefix of the files of all attempts."""
        return f"exports/{self.account_id}/{self.id}"

    @property
    def ref(self) -> str:
        """Artifact prefix of the files of the current attempt."""
        return f"{self.home}/{self.attempt}"

    def renew(self, source: ExportSource) -> None:
        """Export again, unless the files exist or will exist."""
        if not self.status.is_wanted:
            self.trigger_event(self.ExportRenewed, source=source, attempt=self.attempt + 1)

    @event(ExportRenewed)
    def _export_renewed(self, source: ExportSource, attempt: int) -> None:
        self.source = source
        self.attempt = attempt
        self.status = ExportStatus.PENDING
        self.files = None
        self.expires_at = None

    def complete(
        self, files: ExportedFiles, libraries: dict[str, str], expires_at: datetime | None
    ) -> None:
        """Record the stored files of the current attempt, if the export is pending."""
        if self.status is ExportStatus.PENDING and files.ref == self.ref:
            self.trigger_event(
                self.ExportCompleted,
                model=self.model,
                format=self.format,
                files=files,
                libraries=libraries,
                expires_at=expires_at,
            )

    @event(ExportCompleted)
    def _export_completed(self, files: ExportedFiles, expires_at: datetime | None) -> None:
        self.status = ExportStatus.READY
        self.files = files
        self.expires_at = expires_at

    def fail(self, code: str, message: str) -> None:
        """Record that the model cannot be exported, if the export is pending."""
        if self.status is ExportStatus.PENDING:
            self.trigger_event(
                self.ExportFailed, model=self.model, format=self.format, code=code, message=message
            )

    @event(ExportFailed)
    def _export_failed(self) -> None:
        self.status = ExportStatus.FAILED

    def expire(self, now: datetime) -> None:
        """End the export if its retention time has ended."""
        if self.status is ExportStatus.READY and self.expires_at and self.expires_at <= now:
            self.trigger_event(self.ExportExpired)

    @event(ExportExpired)
    def _export_expired(self) -> None:
        self.status = ExportStatus.EXPIRED
        self.files = None

    def delete(self) -> None:
        """Delete the export, also while it is pending."""
        if self.status.is_wanted:
            self.trigger_event(self.ExportDeleted)

    @event(ExportDeleted)
    def _export_deleted(self) -> None:
        self.status = ExportStatus.DELETED
        self.files = None
