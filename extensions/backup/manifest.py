"""The manifest of a backup: everything that a restore needs, with the hash of each content."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

FORMAT = 1


class Blob(BaseModel):
    """A content in the target, which is stored under its hash."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    bytes: int

    @property
    def ref(self) -> str:
        """Path of the content in the target."""
        return f"blobs/{self.sha256[:2]}/{self.sha256}"


class EventChunk(Blob):
    """Consecutive events, compressed. `first` and `last` are notification IDs."""

    first: int
    last: int
    events: int


class TableCopy(Blob):
    """The rows of a table, compressed."""

    table: str
    columns: tuple[str, ...]
    rows: int


class ArtifactFile(Blob):
    """A file of the artifact store."""

    path: str


class MissingArtifact(BaseModel):
    """An artifact that the log names and the backup does not have."""

    model_config = ConfigDict(frozen=True)

    path: str
    deleted: bool
    """True if EcoLink deleted it while the backup was made. Otherwise, it is damaged or lost."""

    text: str


class BackupManifest(BaseModel):
    """A complete backup. It is stored last, so a backup that did not finish has none."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = FORMAT
    id: str
    created_at: datetime
    version: str
    """Version of EcoLink that made the backup."""

    log_id: UUID
    events: int
    last_event: int
    """Notification ID of the last event, 0 for an empty log."""

    shapes: dict[str, str]
    """Hash of each read model's shape, by name."""

    chunks: tuple[EventChunk, ...]
    tables: tuple[TableCopy, ...]
    artifacts: tuple[ArtifactFile, ...]
    missing: tuple[MissingArtifact, ...]

    @property
    def ref(self) -> str:
        """Path of the manifest in the target."""
        return manifest_ref(self.id)

    @property
    def content(self) -> bytes:
        """The bytes of the manifest's file."""
        return self.model_dump_json(indent=1).encode()

    @property
    def sha256(self) -> str:
        """Hash of the manifest's file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blobs(self) -> list[Blob]:
        """All contents of the backup."""
        return [*self.chunks, *self.tables, *self.artifacts]

    @property
    def total_bytes(self) -> int:
        """Total size of the contents in the target, in bytes."""
        return sum({each.sha256: each.bytes for each in self.blobs}.values())

    @property
    def damaged(self) -> list[MissingArtifact]:
        """Artifacts that were damaged or lost when the backup was made."""
        return [each for each in self.missing if not each.deleted]


MANIFESTS = "backups"


def manifest_ref(id: str) -> str:
    """Return the path of a manifest in the target."""
    return f"{MANIFESTS}/{id}.json"
