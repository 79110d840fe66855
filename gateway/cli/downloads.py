"""Download models and checkpoints: resume interrupted downloads, and verify every hash."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote

import typer
from pydantic import BaseModel
from rich.console import RenderableType
from rich.filesize import decimal

from gateway.cli.client import CHUNK_BYTES, Client, ClientError, Reply, Unreachable
from gateway.cli.tables import pairs
from gateway.cli.terminal import bar, interrupted, show
from gateway.models.schemas import ModelFileResponse
from gateway.schemas import Listed

MANIFEST = "manifest.json"
PART = ".part"
"""Suffix of an incomplete file."""

PATIENCE_SECONDS = 60.0  # timeout for a gateway that sends nothing
RETRY_SECONDS = 1.0

Advance = Callable[[int], object]
"""Callback for bytes of progress. The number is negative if a partial file is discarded."""

Directory = Annotated[
    Path | None,
    typer.Option(
        "--to",
        file_okay=False,
        help="Target directory.  \\[default: the name of the model or job, in the current "
        "directory]",
        show_default=False,
    ),
]


class Damaged(ClientError):
    """A download that does not match its manifest."""


class Downloaded(BaseModel):
    """A finished download."""

    name: str
    directory: Path
    total_bytes: int
    files: list[ModelFileResponse]


def fetch(client: Client, path: str, name: str, directory: Path | None) -> None:
    """Download the files of a model or checkpoint, by its path under /api.

    `name` is the default name of the directory. Raise ClientError or OSError on failure.
    """
    target = directory or Path(name.replace(":", "-"))
    files = client.read(Listed[ModelFileResponse], f"{path}/files").model.data
    total_bytes = sum(file.bytes for file in files)
    try:
        with bar(f"downloading {name}", total_bytes) as advance:
            download(client, path, files, target, advance)
    except KeyboardInterrupt:
        interrupted("\nRepeat the command to resume the download.")
    done = Downloaded(name=name, directory=target.resolve(), total_bytes=total_bytes, files=files)
    show(Reply(done.model_dump(mode="json"), done), _drawn)


def _drawn(done: Downloaded) -> RenderableType:
    size = decimal(done.total_bytes)
    return pairs(
        {
            "downloaded": done.name,
            "directory": done.directory,
            "files": f"{len(done.files):,}, {size} in total; every hash matches the manifest",
        }
    )


def download(
    client: Client, path: str, files: list[ModelFileResponse], directory: Path, advance: Advance
) -> None:
    """Download files into a directory and verify them. `advance` counts bytes already there too."""
    for file in files:
        target = directory / _relative(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and hash_of(target) == file.sha256:
            advance(file.bytes)
        else:
            _fetch(client, f"{path}/files/{quote(file.path)}", file, target, advance)
    _check(directory, files)


def _relative(file: ModelFileResponse) -> PurePosixPath:
    """Return the path below the directory. Raise Damaged for a path outside it."""
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise Damaged(f"{file.path} is not a path below the target directory. Ask your operator.")
    return path


def _fetch(
    client: Client, path: str, file: ModelFileResponse, target: Path, advance: Advance
) -> None:
    """Download one file. Resume a partial download, or start over if its hash is wrong."""
    part = target.with_name(target.name + PART)
    continued = part.exists()
    _append(client, path, file, part, advance)
    if hash_of(part) != file.sha256 and continued:
        part.unlink()
        advance(-file.bytes)
        _append(client, path, file, part, advance)
    if hash_of(part) != file.sha256:
        part.unlink()
        raise Damaged(f"{file.path} is damaged: its hash is wrong. Download it again.")
    part.replace(target)


def _append(
    client: Client, path: str, file: ModelFileResponse, part: Path, advance: Advance
) -> None:
    """Append the rest of a partial file. Reconnect as long as bytes arrive."""
    if part.exists() and part.stat().st_size > file.bytes:
        part.unlink()
    part.touch()
    advance(part.stat().st_size)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (there := part.stat().st_size) < file.bytes:
        try:
            with client.file(path, file.sha256, there) as (begin, chunks), part.open("ab") as out:
                out.truncate(begin)
                advance(begin - there)
                for chunk in chunks:
                    out.write(chunk)
                    advance(len(chunk))
                    deadline = time.monotonic() + PATIENCE_SECONDS
            return
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def _check(directory: Path, files: list[ModelFileResponse]) -> None:
    manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    listed = {each["path"]: each["sha256"] for each in manifest["files"]}
    arrived = {file.path: file.sha256 for file in files if file.path != MANIFEST}
    if listed != arrived:
        wrong = sorted(path for path, _ in listed.items() ^ arrived.items())
        raise Damaged(
            f"{MANIFEST} differs from the downloaded files in {', '.join(wrong)}. Download them "
            "again."
        )


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
