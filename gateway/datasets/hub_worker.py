"""The limited process that downloads a split of a dataset repository from the one hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gateway.datasets.hub_files import NoFiles, files_of_split
from infrastructure.extras import PARQUET, missing
from infrastructure.http.hub_client import ENVIRONMENT
from infrastructure.process.full_disk import NoSpace, require_space
from infrastructure.process.limited_process import serve

CHUNK_BYTES = 1024**2
BATCH_ROWS = 1024

REFUSED = {
    HTTPStatus.UNAUTHORIZED: "The hub does not accept the token, or has no such repository.",
    HTTPStatus.FORBIDDEN: "The token may not read the repository.",
    HTTPStatus.NOT_FOUND: "The hub has no such repository or revision.",
}


class Refused(Exception):
    """The request cannot be fulfilled. `field` is the invalid field."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def handle(request: dict[str, Any], _: Callable[[Mapping[str, Any]], object]) -> dict[str, Any]:
    """Download a split. Return the commit, the files and the hash, or why it failed."""
    os.environ.update(ENVIRONMENT)  # the client reads them when it is imported
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return _download(request)
    except (Refused, NoFiles) as error:
        return {"refused": str(error), "field": error.field}
    except NoSpace as error:
        return {"full": str(error)}
    except HFValidationError as error:
        return {"refused": str(error), "field": "repository"}
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status not in REFUSED:
            raise
        return {"refused": REFUSED[HTTPStatus(status)], "field": "repository"}


def _download(request: dict[str, Any]) -> dict[str, Any]:
    from huggingface_hub import HfApi

    directory, repository = Path(request["directory"]), request["repository"]
    token = request["token"] or False
    api = HfApi(endpoint=request["endpoint"], token=token, library_name="ecolink")
    info = api.dataset_info(repository, revision=request["revision"], files_metadata=True)
    if info.sha is None:
        raise Refused("The hub names no commit.", "revision")
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    configs = (info.card_data or {}).get("configs") if info.card_data is not None else None
    paths = files_of_split(list(sizes), configs, request["config"], request["split"])
    if any(path.endswith(".parquet") for path in paths) and missing(PARQUET):
        raise Refused(
            "The split has Parquet files, which this installation cannot read. Ask your operator "
            "to install the extra `parquet`.",
            "split",
        )
    total, most = sum(sizes[path] for path in paths), request["max_bytes"]
    if total > most:
        raise Refused(
            f"The split has {total:,} bytes. The maximum is {most:,}. Choose a smaller split.",
            "split",
        )
    require_space([(directory, 2 * total)], request["kept_free_bytes"])
    files = [
        Path(
            api.hf_hub_download(
                repository,
                path,
                repo_type="dataset",
                revision=info.sha,
                local_dir=directory / "files",
            )
        )
        for path in paths
    ]
    joined = directory / "dataset"
    _join(files, joined)
    size = joined.stat().st_size
    if size > most:
        raise Refused(f"The split has {size:,} bytes. The maximum is {most:,}.", "split")
    return {
        "commit": info.sha,
        "files": [
            {"path": path, "bytes": file.stat().st_size, "sha256": _sha256(file)}
            for path, file in zip(paths, files, strict=True)
        ],
        "sha256": _sha256(joined),
        "bytes": size,
    }


def _join(files: list[Path], target: Path) -> None:
    """Join files of one type. Parquet files have the first one's schema, or Refused is raised."""
    if len(files) == 1:
        files[0].rename(target)
        files[0].symlink_to(target)
    elif files[0].name.endswith(".parquet"):
        _join_parquet(files, target)
    else:
        with target.open("wb") as out:
            for file in files:
                last = b"\n"
                with file.open("rb") as opened:
                    while chunk := opened.read(CHUNK_BYTES):
                        out.write(chunk)
                        last = chunk[-1:]
                if last != b"\n" and not file.name.endswith(".gz"):
                    out.write(b"\n")


def _join_parquet(files: list[Path], target: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = parquet.read_schema(files[0]).remove_metadata()
    with parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for file in files:
            with parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(BATCH_ROWS):
                    try:
                        table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
                    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                        raise Refused(
                            f"{file.name} has other columns than {files[0].name}.", "split"
                        ) from error
                    writer.write_table(table)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    serve(handle)
