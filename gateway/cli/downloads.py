"""Downloading models and checkpoints to a directory, for `ecolink jobs` and `ecolink models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import tables
from gateway.cli.client import Client
from gateway.cli.file_download import download, files_at
from gateway.cli.terminal import bar, interrupted, show

Directory = Annotated[
    Path | None,
    typer.Option(
        "--to",
        file_okay=False,
        help="Directory to download to.  \\[default: one here, named after it]",
        show_default=False,
    ),
]


def fetch(client: Client, path: str, name: str, directory: Path | None, as_json: bool) -> None:
    """Download what lies at a path of the API, show where it is; Ctrl-C says how to go on.

    `name` names the directory if none is given. Raises ClientError and OSError.
    """
    target = directory or Path(name.replace(":", "-"))
    files = files_at(client, path)
    total_bytes = sum(file.bytes for file in files)
    try:
        with bar(f"downloading {name}", total_bytes) as told:
            download(client, path, files, target, told)
    except KeyboardInterrupt:
        interrupted("\nThe same command goes on where it was cut off.")
    answer = {
        "name": name,
        "directory": str(target.resolve()),
        "total_bytes": total_bytes,
        "files": [
            {"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in files
        ],
    }
    show(answer, as_json, tables.download)
