"""Artifacts: immutable files in an object store, and directories of them under a manifest."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlparse

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url
from pydantic import BaseModel, ConfigDict, ValidationError

from infrastructure.disk_cache import delete_killed, hold, partial_of

MANIFEST = "manifest.json"

RANGE_BYTES = 1024**2
"""How much of an object is read with one request, and held in memory, while it is passed on."""

PART_BYTES, PARTS_AT_ONCE = 5 * 1024**2, 2
"""Of a stream that is stored: the least that S3 takes, and two on their way while one fills.

obstore's own, 12 of 10 MiB, would be held in memory for each upload to a slow store.
"""

STORE_ERRORS = (BaseError, OSError)
"""What a store raises that is away, full or refuses us; but FileNotFoundError is an answer."""


class ArtifactCorrupt(Exception):
    """A stored file is missing or differs from its manifest."""


class ManifestFile(BaseModel):
    """One file of a directory artifact."""

    model_config = ConfigDict(frozen=True)

    path: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """Every file of a directory artifact; written last, so that it exists only when all do."""

    model_config = ConfigDict(frozen=True)

    files: tuple[ManifestFile, ...]

    @property
    def content(self) -> bytes:
        """The bytes that are stored as manifest.json."""
        return self.model_dump_json(indent=1).encode()

    @property
    def sha256(self) -> str:
        """Hash of the stored manifest; it pins every file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def total_bytes(self) -> int:
        """Sum of the files' sizes, bytes."""
        return sum(file.bytes for file in self.files)

    def without(self, paths: Collection[str]) -> Manifest:
        """The manifest as it was before these files were added."""
        return Manifest(files=tuple(file for file in self.files if file.path not in paths))


class Artifacts:
    """The artifact store behind a URL (`file://` locally, `s3://` in production).

    A ref is a slash-separated key. Writes are durable when the call returns.
    """

    def __init__(self, url: str) -> None:
        parsed = urlparse(url)
        self.root: Path | None = None
        if parsed.scheme == "file":
            self.root = Path(unquote(parsed.path))
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._store = from_url(url)
        self._held: dict[Path, int] = {}  # copies that are in use, by the handle that says so

    def put(self, ref: str, content: bytes) -> None:
        """Store bytes under a ref."""
        obstore.put(self._store, ref, content)
        self._sync(ref)

    def put_file(self, ref: str, path: Path) -> None:
        """Store a file's content under a ref, streamed."""
        with path.open("rb") as file:
            obstore.put(self._store, ref, file)
        self._sync(ref)

    async def put_stream(self, ref: str, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        """Store an asynchronous stream; returns (bytes, sha256). On an error nothing is kept."""
        digest, size = hashlib.sha256(), 0
        writer = obstore.open_writer_async(
            self._store, ref, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )
        try:
            async with writer:
                async for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    await writer.write(chunk)
            await asyncio.to_thread(self._sync, ref)
        except BaseException:
            self.delete(ref)
            raise
        return size, digest.hexdigest()

    def get(self, ref: str) -> bytes:
        """The bytes under a ref; raises FileNotFoundError."""
        return bytes(obstore.get(self._store, ref).bytes())

    def stream(self, ref: str, chunk_bytes: int = 1024 * 1024) -> Iterator[bytes]:
        """The content under a ref in chunks; raises FileNotFoundError."""
        for chunk in obstore.get(self._store, ref).stream(min_chunk_size=chunk_bytes):
            yield bytes(chunk)

    def local_file(self, ref: str, directory: Path) -> Path:
        """A file of this machine with the content under a ref: a copy in a directory if remote.

        Raises FileNotFoundError.
        """
        if self.root is not None:
            if not (self.root / ref).is_file():
                raise FileNotFoundError(ref)
            return self.root / ref
        target = directory / Path(ref).name
        with target.open("wb") as file:
            for chunk in self.stream(ref):
                file.write(chunk)
        return target

    async def stream_range(self, ref: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to, but not with, `stop`; raises FileNotFoundError.

        Many short requests: one long request would end at the store's time limit when whoever the
        bytes are for takes them slowly.
        """
        for offset in range(start, stop, RANGE_BYTES):
            end = min(stop, offset + RANGE_BYTES)
            yield bytes(await obstore.get_range_async(self._store, ref, start=offset, end=end))

    def size(self, ref: str) -> int:
        """How many bytes are stored under a ref; raises FileNotFoundError."""
        return obstore.head(self._store, ref)["size"]

    def exists(self, ref: str) -> bool:
        """Whether something is stored under a ref."""
        try:
            obstore.head(self._store, ref)
        except FileNotFoundError:
            return False
        return True

    def delete(self, ref: str) -> None:
        """Remove what is under a ref, if anything."""
        if self.exists(ref):
            obstore.delete(self._store, ref)

    def list(self, prefix: str) -> list[str]:
        """Refs under a prefix, sorted."""
        return sorted(
            item["path"] for page in obstore.list(self._store, prefix=prefix) for item in page
        )

    def delete_directory(self, prefix: str) -> None:
        """Remove everything under a prefix, the manifest first."""
        self.delete(f"{prefix}/{MANIFEST}")
        for ref in self.list(prefix):
            obstore.delete(self._store, ref)

    def put_directory(self, prefix: str, directory: Path) -> Manifest:
        """Store every file of a directory, then its manifest; returns the manifest."""
        files: list[ManifestFile] = []
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            name = path.relative_to(directory).as_posix()
            self.put_file(f"{prefix}/{name}", path)
            files.append(ManifestFile(path=name, bytes=path.stat().st_size, sha256=_sha256(path)))
        manifest = Manifest(files=tuple(files))
        self.put(f"{prefix}/{MANIFEST}", manifest.content)
        return manifest

    def take_directory(self, prefix: str, directory: Path, known: Mapping[str, str]) -> Manifest:
        """Store a directory as `put_directory` does, and leave nothing of it where it was.

        Of files whose sha256 is known by their path nothing is read, and a file store takes them as
        they are: what was written is not written again.
        """
        files: list[ManifestFile] = []
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            name, size = path.relative_to(directory).as_posix(), path.stat().st_size
            sha256 = known.get(name) or _sha256(path)
            self._take_file(f"{prefix}/{name}", path)
            files.append(ManifestFile(path=name, bytes=size, sha256=sha256))
        shutil.rmtree(directory)
        manifest = Manifest(files=tuple(files))
        self.put(f"{prefix}/{MANIFEST}", manifest.content)
        return manifest

    def _take_file(self, ref: str, path: Path) -> None:
        """Store a file that is no longer needed where it is."""
        if self.root is None:
            self.put_file(ref, path)
            return
        target = self.root / ref
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A name must not be durable before what it names.
            _flush(path, forget=True)
            path.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self.put_file(ref, path)  # from another file system
        else:
            _flush(target.parent)

    def add_files(self, prefix: str, manifest: Manifest, contents: Mapping[str, bytes]) -> Manifest:
        """Store files beside those of a manifest, and a new manifest of all; returns it.

        Until the new manifest is there, the directory is what the old one says.
        """
        files = list(manifest.without(contents).files)
        for path, content in contents.items():
            self.put(f"{prefix}/{path}", content)
            sha256 = hashlib.sha256(content).hexdigest()
            files.append(ManifestFile(path=path, bytes=len(content), sha256=sha256))
        whole = Manifest(files=tuple(files))
        self.put(f"{prefix}/{MANIFEST}", whole.content)
        return whole

    def manifest(self, prefix: str) -> Manifest:
        """The manifest of a directory artifact; raises FileNotFoundError and ArtifactCorrupt."""
        try:
            return Manifest.model_validate_json(self.get(f"{prefix}/{MANIFEST}"))
        except ValidationError as error:
            raise ArtifactCorrupt(f"{prefix}/{MANIFEST} is no manifest") from error

    def get_directory(
        self, prefix: str, directory: Path, only: Collection[str] | None = None
    ) -> Manifest:
        """Copy a directory artifact to a local directory, verifying every hash.

        With `only`, no more than the files with these paths. Raises FileNotFoundError without a
        manifest and ArtifactCorrupt on a differing file.
        """
        manifest = self.manifest(prefix)
        for file in manifest.files:
            if only is not None and file.path not in only:
                continue
            target = directory / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            try:
                with target.open("wb") as out:
                    for chunk in self.stream(f"{prefix}/{file.path}"):
                        digest.update(chunk)
                        out.write(chunk)
            except FileNotFoundError as error:
                raise ArtifactCorrupt(f"{prefix}/{file.path} is missing") from error
            if digest.hexdigest() != file.sha256:
                raise ArtifactCorrupt(f"{prefix}/{file.path} differs from its manifest")
        return manifest

    def local_directory(self, prefix: str, cache: Path) -> Path:
        """A local directory with a directory artifact's files, copied to the cache only if remote.

        A file store is read in place, so that a base model is mapped from disk once for all. The
        cache may be shared by processes, one of which may be killed while it copies. A copy is not
        deleted before it is released, or this process ends.
        """
        if self.root is not None:
            if not (self.root / prefix / MANIFEST).exists():
                raise FileNotFoundError(f"{prefix}/{MANIFEST}")
            return self.root / prefix
        target = cache / self.manifest(prefix).sha256
        while not self._hold(target, target):
            self._copy_whole(prefix, target)
        return target

    def release_directory(self, directory: Path) -> None:
        """Say of a local directory that nothing here uses it any longer."""
        if (handle := self._held.pop(directory, None)) is not None:
            os.close(handle)

    def _hold(self, directory: Path, target: Path) -> bool:
        """Have what is, or will be, the copy at `target` kept; False if there is none."""
        handle = hold(directory)
        if handle is None:
            return False
        self.release_directory(target)
        self._held[target] = handle
        return True

    def _copy_whole(self, prefix: str, target: Path) -> None:
        """Copy a directory artifact to a local directory that is there when all of it is."""
        delete_killed(target.parent)
        partial = partial_of(target)
        while not self._hold(partial, target):  # or others take it for a killed process's
            partial.mkdir(parents=True, exist_ok=True)
        try:
            self.get_directory(prefix, partial)
            partial.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was first
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _sync(self, ref: str) -> None:
        """Flush a file store's file and its directory; object stores are durable by contract."""
        if self.root is None:
            return
        for path in (self.root / ref, (self.root / ref).parent):
            _flush(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path, *, forget: bool = False) -> None:
    """Make a file's content, or a directory's names, durable.

    With `forget` the kernel keeps none of the content in memory: the next file gets those pages,
    which cost a tenth of new ones.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        if forget:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
