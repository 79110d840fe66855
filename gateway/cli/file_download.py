"""Downloading a directory of files: what was cut off goes on, and every hash is checked."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from gateway.cli.client import CHUNK_BYTES, Client, ClientError, Unreachable

MANIFEST = "manifest.json"
PART = ".part"
"""Ending of a file's name until all of it is there."""

PATIENCE_SECONDS = 60.0  # with a gateway that sends nothing
RETRY_SECONDS = 1.0

FeedEvent = Callable[[int], object]


class Damaged(ClientError):
    """What was downloaded is not what the manifest says."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a directory on the gateway."""

    path: str
    bytes: int
    sha256: str

    @property
    def relative(self) -> PurePosixPath:
        """Its path below the directory; raises Damaged for one that would lead out of it."""
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise Damaged(f"{self.path} is no path below the directory")
        return path


def files_at(client: Client, path: str) -> list[RemoteFile]:
    """The files of a model or a checkpoint, by its path under /api; raises ClientError."""
    return [RemoteFile(**each) for each in client.get(f"{path}/files")["data"]]


def download(
    client: Client, path: str, files: list[RemoteFile], directory: Path, told: FeedEvent
) -> None:
    """Bring some files into a directory, and hold them against their manifest.

    `told` hears of bytes that are there, also of those from before; less than none are taken back.
    Raises ClientError, Damaged among them, and OSError.
    """
    for file in files:
        target = directory / file.relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and hash_of(target) == file.sha256:
            told(file.bytes)
        else:
            _fetch(client, f"{path}/files/{quote(file.path)}", file, target, told)
    _check(directory, files)


def _fetch(client: Client, path: str, file: RemoteFile, target: Path, told: FeedEvent) -> None:
    """Bring one file; what is there of it already is tried first, and once more without it."""
    part = target.with_name(target.name + PART)
    continued = part.exists()
    _append(client, path, file, part, told)
    if hash_of(part) != file.sha256 and continued:
        part.unlink()
        told(-file.bytes)
        _append(client, path, file, part, told)
    if hash_of(part) != file.sha256:
        part.unlink()
        raise Damaged(f"{file.path} arrived damaged; try again")
    part.replace(target)


def _append(client: Client, path: str, file: RemoteFile, part: Path, told: FeedEvent) -> None:
    """Fill up a part to the file's size, going on after each cut while there is any progress."""
    if part.exists() and part.stat().st_size > file.bytes:
        part.unlink()
    part.touch()
    told(part.stat().st_size)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (there := part.stat().st_size) < file.bytes:
        try:
            with client.file(path, file.sha256, there) as (begin, chunks), part.open("ab") as out:
                out.truncate(begin)
                told(begin - there)
                for chunk in chunks:
                    out.write(chunk)
                    told(len(chunk))
                    deadline = time.monotonic() + PATIENCE_SECONDS
            return
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def _check(directory: Path, files: list[RemoteFile]) -> None:
    """Hold what the manifest says against what was just checked; raises Damaged."""
    manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    listed = {each["path"]: each["sha256"] for each in manifest["files"]}
    arrived = {file.path: file.sha256 for file in files if file.path != MANIFEST}
    if listed != arrived:
        wrong = sorted(path for path, _ in listed.items() ^ arrived.items())
        raise Damaged(f"{MANIFEST} says otherwise of {', '.join(wrong)}")


def hash_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
