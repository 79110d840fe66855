"""The artifact store: immutable files, and directories of files with a manifest."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import math
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlparse

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from infrastructure.artifacts.disk_cache import delete_killed, hold, partial_of
from infrastructure.artifacts.object_stores import PROMPT_SECONDS, open_store

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import S3CredentialProvider

MANIFEST = "manifest.json"

MAX_DOCUMENT_BYTES = 4 * 1024**2
"""Maximum size of a document that a trainer may have written, such as a manifest."""

MAX_FILES, MAX_PATH_CHARACTERS = 10_000, 255
"""Maximum number of files in a manifest, and maximum length of a path in it."""

UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]|(^|/)(\.{0,2})(/|$)")
"""Control characters, backslashes, and empty, `.` and `..` parts of a path."""

RANGE_BYTES = 1024**2
"""Number of bytes that a ranged read keeps in memory."""

PART_BYTES, PARTS_AT_ONCE, MOST_PARTS = 5 * 1024**2, 2, 10_000
"""Size of the parts of an upload, in bytes, their number in flight, and their maximum number.

S3 accepts no smaller parts and no more of them. With obstore's default, 12 parts of 10 MiB, each
upload to a slow store would fill the memory.
"""

STORE_ERRORS = (BaseError, OSError)
"""Errors of an unreachable store, without FileNotFoundError: it lacks the ref."""

DENIED = (PermissionDeniedError, UnauthenticatedError)
"""Errors of refused keys, which an operator must fix. A refused list raises GenericError."""


class ArtifactCorrupt(Exception):
    """A stored file is missing or differs from its manifest."""


def _safe(path: str) -> str:
    if UNSAFE.search(path):
        raise ValueError(f"{path!r} is not a relative path of plain names.")
    return path


class ManifestFile(BaseModel):
    """A file of a directory artifact. Its path cannot lead out of the directory."""

    model_config = ConfigDict(frozen=True)

    path: Annotated[str, Field(max_length=MAX_PATH_CHARACTERS), AfterValidator(_safe)]
    bytes: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel):
    """The list of all files of a directory artifact.

    EcoLink stores the manifest last, so it exists only if all files do.
    """

    model_config = ConfigDict(frozen=True)

    files: Annotated[tuple[ManifestFile, ...], Field(max_length=MAX_FILES)]

    @model_validator(mode="after")
    def _require_distinct(self) -> Manifest:
        """Refuse paths that are equal on some file system, or one inside another."""
        paths = [MANIFEST, *(file.path.casefold() for file in self.files)]
        for parts, following in pairwise(sorted(path.split("/") for path in paths)):
            if following[: len(parts)] == parts:
                raise ValueError(f"The paths {'/'.join(parts)} and {'/'.join(following)} collide.")
        return self

    @classmethod
    def parse(cls, content: bytes, name: str = MANIFEST) -> Manifest:
        """Return the manifest in the bytes of a file, or raise ArtifactCorrupt with its name."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise ArtifactCorrupt(f"{name} is not a manifest.") from error

    @property
    def content(self) -> bytes:
        """Bytes of manifest.json."""
        return self.model_dump_json(indent=1).encode()

    @property
    def sha256(self) -> str:
        """SHA-256 hash of manifest.json, which pins the content of every file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def total_bytes(self) -> int:
        """Total size of the files, in bytes."""
        return sum(file.bytes for file in self.files)

    def without(self, paths: Collection[str]) -> Manifest:
        """Return a copy of the manifest without the files at these paths."""
        return Manifest(files=tuple(file for file in self.files if file.path not in paths))


class Artifacts:
    """The artifact store at a URL (`file://` locally, `s3://` in production).

    A ref is a slash-separated key. Writes are durable when the call returns. While S3 is
    unreachable, a call repeats its request for `patience_seconds` before it raises an error.
    """

    def __init__(
        self,
        url: str,
        *,
        patience_seconds: float = PROMPT_SECONDS,
        credentials: S3CredentialProvider | None = None,
    ) -> None:
        parsed = urlparse(url)
        self.root: Path | None = None
        if parsed.scheme == "file":
            self.root = Path(unquote(parsed.path))
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._store = open_store(url, patience_seconds, credentials)
        self._held: dict[Path, list[int]] = {}  # a lock for each user of a copy, oldest first
        self._holding = Lock()
        self._copying: dict[Path, Lock] = {}  # by copy: one thread creates it

    def put(self, ref: str, content: bytes) -> None:
        """Store bytes under a ref, replacing existing content."""
        obstore.put(self._store, ref, content)
        self._sync(ref)

    def create(self, ref: str, content: bytes) -> bool:
        """Store bytes under a ref. Return False, and change nothing, if it exists."""
        try:
            obstore.put(self._store, ref, content, mode="create")
        except AlreadyExistsError:
            return False
        self._sync(ref)
        return True

    def put_file(self, ref: str, path: Path) -> None:
        """Stream a file's content to a ref. After an error, the ref has its previous content."""
        obstore.put(
            self._store,
            ref,
            path,
            chunk_size=part_bytes(path.stat().st_size),
            max_concurrency=PARTS_AT_ONCE,
        )
        self._sync(ref)

    async def put_stream(
        self, ref: str, chunks: AsyncIterator[bytes], expected_bytes: int = 0
    ) -> tuple[int, str]:
        """Store an asynchronous stream. Return its size in bytes and its SHA-256 hash.

        S3 cannot store more than 48 GiB unless `expected_bytes` announces the size. After an error,
        nothing is stored.
        """
        digest, size = hashlib.sha256(), 0
        writer = obstore.open_writer_async(
            self._store, ref, buffer_size=part_bytes(expected_bytes), max_concurrency=PARTS_AT_ONCE
        )
        try:
            async with writer:
                async for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    await writer.write(chunk)
            await asyncio.to_thread(self._sync, ref)
        except BaseException as error:
            with suppress(*STORE_ERRORS):  # the store may have been the error
                await asyncio.to_thread(self.delete, ref)
            if type(error) is OSError and error.errno is None:
                raise GenericError(str(error)) from error  # the writer's form of this error
            raise
        return size, digest.hexdigest()

    def get(self, ref: str) -> bytes:
        """Return the bytes under a ref. Raise FileNotFoundError if it does not exist."""
        return bytes(obstore.get(self._store, ref).bytes())

    def get_document(self, ref: str) -> bytes:
        """Return the bytes of a document that a trainer may have written.

        Raise FileNotFoundError if it does not exist, and ArtifactCorrupt if it is too large.
        """
        found = obstore.get(self._store, ref)
        if found.meta["size"] > MAX_DOCUMENT_BYTES:
            raise ArtifactCorrupt(f"{ref} has {found.meta['size']:,} bytes, which is too large.")
        return bytes(found.bytes())

    def get_range(self, ref: str, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to before `stop`, which must not be empty."""
        return bytes(obstore.get_range(self._store, ref, start=start, end=stop))

    def stream(self, ref: str, chunk_bytes: int = 1024 * 1024) -> Iterator[bytes]:
        """Yield the content of a ref in chunks. Raise FileNotFoundError if it does not exist.

        A download that breaks continues where it broke, as long as each request returns something.
        """
        found = obstore.get(self._store, ref)
        size, etag, offset = found.meta["size"], found.meta["e_tag"], 0
        while True:
            began = offset
            try:
                for chunk in found.stream(min_chunk_size=chunk_bytes):
                    offset += len(chunk)
                    yield bytes(chunk)
            except BaseError:
                if self.root is not None or offset == began:
                    raise
            if offset >= size:
                return
            rest: GetOptions = {"range": (offset, size), "if_match": etag}
            found = obstore.get(self._store, ref, options=rest)

    def local_file(self, ref: str, directory: Path) -> Path:
        """Return a local file with the content of a ref; in `directory` if the store is remote."""
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
        """Yield a range in short requests: slow clients would exceed the time limit of one."""
        for offset in range(start, stop, RANGE_BYTES):
            end = min(stop, offset + RANGE_BYTES)
            yield bytes(await obstore.get_range_async(self._store, ref, start=offset, end=end))

    def size(self, ref: str) -> int:
        """Return the size of a ref in bytes. Raise FileNotFoundError if it does not exist."""
        return obstore.head(self._store, ref)["size"]

    def exists(self, ref: str) -> bool:
        """Return True if a ref exists."""
        try:
            obstore.head(self._store, ref)
        except FileNotFoundError:
            return False
        return True

    def copy(self, ref: str, copied_ref: str) -> None:
        """Copy the content of a ref within the store, or raise FileNotFoundError."""
        obstore.copy(self._store, ref, copied_ref)
        self._sync(copied_ref)

    def delete(self, ref: str) -> None:
        """Delete a ref, if it exists."""
        with suppress(FileNotFoundError):
            obstore.delete(self._store, ref)

    def list(self, prefix: str) -> list[str]:
        """Return the refs under a prefix, sorted."""
        return sorted(
            item["path"] for page in obstore.list(self._store, prefix=prefix) for item in page
        )

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the size in bytes of each ref under a prefix."""
        return {
            item["path"]: item["size"]
            for page in obstore.list(self._store, prefix=prefix)
            for item in page
        }

    def delete_directory(self, prefix: str) -> None:
        """Delete all refs under a prefix, starting with the manifest."""
        self.delete(f"{prefix}/{MANIFEST}")
        obstore.delete(self._store, self.list(prefix))

    def put_directory(self, prefix: str, directory: Path) -> Manifest:
        """Store all files of a directory, and then their manifest. Return the manifest."""
        return self._store_directory(prefix, directory, {}, self.put_file)

    def take_directory(self, prefix: str, directory: Path, known: Mapping[str, str]) -> Manifest:
        """Store a directory and delete it locally. Files in `known` (path: hash) are not read."""
        manifest = self._store_directory(prefix, directory, known, self._take_file)
        shutil.rmtree(directory)
        return manifest

    def _store_directory(
        self,
        prefix: str,
        directory: Path,
        known: Mapping[str, str],
        store: Callable[[str, Path], None],
    ) -> Manifest:
        files: list[ManifestFile] = []
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            name, size = path.relative_to(directory).as_posix(), path.stat().st_size
            sha256 = known.get(name) or _sha256(path)
            store(f"{prefix}/{name}", path)
            files.append(ManifestFile(path=name, bytes=size, sha256=sha256))
        manifest = Manifest(files=tuple(files))
        self.put(f"{prefix}/{MANIFEST}", manifest.content)
        return manifest

    def _take_file(self, ref: str, path: Path) -> None:
        if self.root is None:
            self.put_file(ref, path)
            return
        target = self.root / ref
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # The content must be durable before the name appears.
            _flush(path, forget=True)
            path.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self.put_file(ref, path)  # the store is on another file system
        else:
            _flush(target.parent)

    def add_files(self, prefix: str, manifest: Manifest, contents: Mapping[str, bytes]) -> Manifest:
        """Add files. Return the new manifest; the old one is valid until that is stored."""
        files = list(manifest.without(contents).files)
        for path, content in contents.items():
            self.put(f"{prefix}/{path}", content)
            sha256 = hashlib.sha256(content).hexdigest()
            files.append(ManifestFile(path=path, bytes=len(content), sha256=sha256))
        whole = Manifest(files=tuple(files))
        self.put(f"{prefix}/{MANIFEST}", whole.content)
        return whole

    def manifest(self, prefix: str) -> Manifest:
        """Return a directory's manifest. Raise FileNotFoundError or ArtifactCorrupt."""
        ref = f"{prefix}/{MANIFEST}"
        return Manifest.parse(self.get_document(ref), ref)

    def get_directory(
        self, prefix: str, directory: Path, only: Collection[str] | None = None
    ) -> Manifest:
        """Copy a directory artifact to a new local directory and verify every hash.

        `only` restricts the copy to these paths. Raise FileNotFoundError if there is no manifest,
        and ArtifactCorrupt if a file differs from it.
        """
        manifest = self.manifest(prefix)
        for file in manifest.files:
            if only is not None and file.path not in only:
                continue
            ref, target = f"{prefix}/{file.path}", directory / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            try:
                with target.open("xb") as out:
                    for chunk in at_most(file.bytes, self.stream(ref), ref):
                        digest.update(chunk)
                        out.write(chunk)
            except FileNotFoundError as error:
                raise ArtifactCorrupt(f"{ref} is missing.") from error
            if digest.hexdigest() != file.sha256:
                raise ArtifactCorrupt(f"{ref} differs from its manifest.")
        return manifest

    def local_directory(self, prefix: str, cache: Path) -> Path:
        """Return a local directory with the files of an artifact.

        For a file store, this is the stored directory itself, so that all processes map the same
        base model. For a remote store, it is a copy in `cache`. Several processes and threads may
        share the cache, and a process may be killed while it copies. The copy stays at least until
        `release_directory` was called once for each call of this method, or the process ends.
        """
        if self.root is not None:
            if not (self.root / prefix / MANIFEST).exists():
                raise FileNotFoundError(f"{prefix}/{MANIFEST}")
            return self.root / prefix
        target = cache / self.manifest(prefix).sha256
        with self._holding:
            copying = self._copying.setdefault(target, Lock())
        with copying:
            handle = hold(target)
            while handle is None:
                handle = self._copy_whole(prefix, target)
        with self._holding:
            self._held.setdefault(target, []).append(handle)
        return target

    def release_directory(self, directory: Path) -> None:
        """Unlock a directory: the oldest lock, maybe of a damaged copy that was replaced."""
        with self._holding:
            handles = self._held.get(directory, [])
            if handles:
                os.close(handles.pop(0))
            if not handles:
                self._held.pop(directory, None)

    def _copy_whole(self, prefix: str, target: Path) -> int | None:
        """Copy a directory artifact to `target`, which appears only when it is complete.

        Return the lock of the copy, or None if another process deleted it again.
        """
        delete_killed(target.parent)
        partial = partial_of(target)
        while (handle := hold(partial)) is None:  # unlocked, other processes would delete it
            partial.mkdir(parents=True, exist_ok=True)
        try:
            self.get_directory(prefix, partial)
            partial.rename(target)
        except BaseException as error:
            os.close(handle)
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return hold(target)  # another process created it first
            raise
        return handle

    def _sync(self, ref: str) -> None:
        """Flush a file of a file store, and its directory. Object stores are always durable."""
        if self.root is None:
            return
        for path in (self.root / ref, (self.root / ref).parent):
            _flush(path)


def at_most(max_bytes: int, chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield the chunks of a file. Raise ArtifactCorrupt if it is larger than expected."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise ArtifactCorrupt(f"{name} has more than the expected {max_bytes:,} bytes.")
        yield chunk


def part_bytes(size: int) -> int:
    """Return the size of the parts of an upload of `size` bytes, in bytes."""
    return max(PART_BYTES, math.ceil(size / MOST_PARTS))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path, *, forget: bool = False) -> None:
    """Make a file or directory durable. `forget`: free its page cache for the next file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        if forget:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
