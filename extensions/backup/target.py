"""The target of backups: a directory or an S3 prefix with contents and manifests.

Each content is stored once, under its hash. A manifest lists the contents of one backup.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from extensions.backup.manifest import MANIFESTS, BackupManifest, Blob, manifest_ref
from infrastructure.artifacts.object_stores import PATIENT_SECONDS
from infrastructure.artifacts.store import Artifacts
from infrastructure.process.liveness import birth, living

LOCK = "lock.json"
BLOBS = "blobs"


class BackupError(Exception):
    """A backup or a restore is impossible. The message says what to do."""


class _Holder(BaseModel):
    """The command that uses a target."""

    host: str
    pid: int
    born: str | None
    since: datetime


class BackupTarget:
    """A target, such as `/mnt/backups` or `s3://bucket/ecolink`."""

    def __init__(self, address: str, *, create: bool = False) -> None:
        self.address = address
        if "://" not in address:
            directory = Path(address).expanduser().resolve()
            if not create and not directory.is_dir():
                raise BackupError(f"The directory {directory} does not exist. Check the path.")
            if create:
                _require_private(directory)
            address = directory.as_uri()
        self._files = Artifacts(address, patience_seconds=PATIENT_SECONDS)
        self._stored: dict[str, int] | None = None  # size of each content, by ref

    @property
    def directory(self) -> Path | None:
        """Directory of a local target, or None."""
        return self._files.root

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from changing the target. Raise BackupError if one uses it."""
        own = _Holder(
            host=socket.gethostname(),
            pid=os.getpid(),
            born=birth(os.getpid()),
            since=datetime.now(UTC),
        )
        content = own.model_dump_json().encode()
        if not self._files.create(LOCK, content):
            holder = self._holder()
            if holder is not None and not _ended(holder, own.host):
                raise BackupError(
                    f"Process {holder.pid} on {holder.host} uses {self.address} since "
                    f"{holder.since:%Y-%m-%d %H:%M:%S} UTC. Wait for it. If it has ended, delete "
                    f"{LOCK} in {self.address}."
                )
            self._files.delete(LOCK)
            if not self._files.create(LOCK, content):
                raise BackupError(f"Another command uses {self.address}. Wait for it.")
        try:
            yield
        finally:
            self._files.delete(LOCK)

    def _holder(self) -> _Holder | None:
        try:
            return _Holder.model_validate_json(self._files.get(LOCK))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise BackupError(
                f"{LOCK} in {self.address} is damaged. If no other command uses the target, "
                "delete the file."
            ) from error

    def ids(self) -> list[str]:
        """Return the IDs of complete backups, oldest first."""
        return [
            ref.removeprefix(f"{MANIFESTS}/").removesuffix(".json")
            for ref in self._files.list(MANIFESTS)
        ]

    def manifest(self, id: str) -> BackupManifest:
        """Return the manifest of a backup. Raise BackupError."""
        try:
            return BackupManifest.model_validate_json(self._files.get(manifest_ref(id)))
        except FileNotFoundError as error:
            raise BackupError(
                f"{self.address} has no backup {id!r}. See `ecolink backup list {self.address}`."
            ) from error
        except ValidationError as error:
            raise BackupError(
                f"{manifest_ref(id)} in {self.address} is damaged, or a newer EcoLink wrote it. "
                "Use another backup, or upgrade EcoLink."
            ) from error

    def newest(self) -> BackupManifest:
        """Return the manifest of the newest backup. Raise BackupError if there is none."""
        ids = self.ids()
        if not ids:
            raise BackupError(
                f"{self.address} has no complete backup. Make one with "
                f"`ecolink backup create {self.address}`."
            )
        return self.manifest(ids[-1])

    def put_manifest(self, manifest: BackupManifest) -> None:
        """Store a manifest. All of its contents are already stored."""
        self._files.put(manifest.ref, manifest.content)

    def has(self, blob: Blob) -> bool:
        """Return True if the target has a content of this hash and size."""
        return self._sizes().get(blob.ref) == blob.bytes

    def add_bytes(self, content: bytes) -> Blob:
        """Store a content, unless the target has it."""
        blob = Blob(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        if not self.has(blob):
            self._files.put(blob.ref, content)
            self._sizes()[blob.ref] = blob.bytes
        return blob

    def add_file(self, path: Path) -> Blob:
        """Store the content of a local file, unless the target has it."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        blob = Blob(sha256=sha256, bytes=path.stat().st_size)
        if not self.has(blob):
            self._files.put_file(blob.ref, path)
            self._sizes()[blob.ref] = blob.bytes
        return blob

    def add_stream(self, blob: Blob, chunks: Iterable[bytes]) -> None:
        """Store a content whose hash is known. Raise ValueError if the chunks have another one."""
        asyncio.run(self._files.put_stream(blob.ref, _checked(blob, chunks), blob.bytes))
        self._sizes()[blob.ref] = blob.bytes

    def read(self, blob: Blob) -> Iterator[bytes]:
        """Yield a content in chunks. Raise BackupError at its end if it is damaged."""
        digest, size = hashlib.sha256(), 0
        try:
            for chunk in self._files.stream(blob.ref):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
        except FileNotFoundError as error:
            raise BackupError(
                f"{blob.ref} is missing in {self.address}. Use another backup."
            ) from error
        if (digest.hexdigest(), size) != (blob.sha256, blob.bytes):
            raise BackupError(
                f"{blob.ref} in {self.address} is damaged: it has {size:,} bytes with the SHA-256 "
                f"{digest.hexdigest()}, not {blob.bytes:,}. Use another backup."
            )

    def delete_all_but(self, kept: Iterable[BackupManifest]) -> tuple[int, int]:
        """Delete other backups, and contents that no backup has.

        Return the number of deleted contents and their bytes.
        """
        manifests = list(kept)
        ids, refs = {each.id for each in manifests}, {b.ref for m in manifests for b in m.blobs}
        for id in self.ids():
            if id not in ids:
                self._files.delete(manifest_ref(id))
        unused = {ref: size for ref, size in self._sizes().items() if ref not in refs}
        for ref in unused:
            self._files.delete(ref)
            del self._sizes()[ref]
        return len(unused), sum(unused.values())

    def _sizes(self) -> dict[str, int]:
        if self._stored is None:
            self._stored = self._files.sizes(BLOBS)
        return self._stored


def _ended(holder: _Holder, host: str) -> bool:
    return holder.host == host and living(holder.pid, holder.born) is None


async def _checked(blob: Blob, chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks. The last one comes only if all together have the hash."""
    digest, size, held = hashlib.sha256(), 0, b""
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        if held:
            yield held
        held = chunk
    if (digest.hexdigest(), size) != (blob.sha256, blob.bytes):
        raise ValueError(f"the content has the SHA-256 {digest.hexdigest()}")
    yield held


def _require_private(directory: Path) -> None:
    """Create a directory that only this user can read. Raise BackupError if others can read it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BackupError(
            f"Other users can read {directory}, and a backup contains datasets and names. Run "
            f"`chmod 700 {directory}`, or choose a directory below it."
        )
