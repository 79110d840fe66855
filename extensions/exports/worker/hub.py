"""The limited process that uploads files with the hub's client. The token comes on stdin."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from infrastructure.http.hub_client import ENVIRONMENT
from infrastructure.process.full_disk import causes
from infrastructure.process.limited_process import serve

REPORT_SECONDS = 5.0
"""Seconds between two reports during the upload of a file."""

CODES = {
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "no_repository",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
}
"""Codes of final refusals, by the status of the hub's response."""


class PublicRepository(Exception):
    """A private push is for a public repository."""


def handle(request: dict[str, Any], report: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Push files. Return the commit, or the code and the message of a failure.

    A failure is `final` if another attempt would fail, too.
    """
    os.environ.update(ENVIRONMENT)  # the client reads them when it is imported
    lock = threading.Lock()

    def on_bytes(count: int) -> None:
        with lock:
            report({"bytes": count})

    try:
        with _reporting(partial(on_bytes, 0)):
            return _push(request, on_bytes)
    except PublicRepository as error:
        return {"code": "public_repository", "message": str(error), "final": True}
    except Exception as error:
        if (failure := _failure(error)) is None:
            raise
        return failure


@contextmanager
def _reporting(report: Callable[[], object]) -> Generator[None]:
    """Report every few seconds in the block, so that a stopped push ends within a large file."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(REPORT_SECONDS):
            report()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _push(request: dict[str, Any], on_bytes: Callable[[int], object]) -> dict[str, Any]:
    """Create the repository unless it exists, and commit files of a directory to it.

    A private push uploads nothing to a public repository. Large files are uploaded first, one by
    one, so a repeated push skips those that the hub has. Raise PublicRepository, or an error of the
    client.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    repository, directory = request["repository"], Path(request["directory"])
    api = HfApi(endpoint=request["endpoint"], token=request["token"], library_name="ecolink")
    api.create_repo(repository, private=request["private"], repo_type="model", exist_ok=True)
    if request["private"] and not api.repo_info(repository, repo_type="model").private:
        # The hub ignores `private` for a repository that exists.
        raise PublicRepository(f"The repository {repository} is public.")
    operations = []
    for path in request["paths"]:
        file = directory / path
        operation = CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(file))
        api.preupload_lfs_files(repository, additions=[operation], free_memory=False)
        operations.append(operation)
        on_bytes(file.stat().st_size)
    done = api.create_commit(
        repository, operations=operations, commit_message="Upload a model from EcoLink"
    )
    return {"commit": done.oid, "url": done.commit_url}


def _failure(error: Exception) -> dict[str, Any] | None:
    """Return the failure that an error of the client reports, or None.

    The client wraps errors of the hub's storage in others. They are not final, because storage also
    refuses addresses that have expired.
    """
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    for each in causes(error):
        if isinstance(each, HFValidationError):
            return {"code": "invalid_name", "message": str(each), "final": True}
        if isinstance(each, HfHubHTTPError):
            failure = _refusal(each.response.status_code, _sentence(each))
            return failure if each is error else failure | {"code": "hub_error", "final": False}
        if isinstance(each, TransportError):
            return {"code": "unreachable", "message": "The hub did not respond.", "final": False}
    return None


def _refusal(status: int, sentence: str) -> dict[str, Any]:
    if status in CODES:
        return {"code": CODES[HTTPStatus(status)], "message": sentence, "final": True}
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in (
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_MANY_REQUESTS,
    ):
        return {"code": "refused", "message": sentence, "final": True}
    message = f"The hub responded with status {status}: {sentence}"
    return {"code": "hub_error", "message": message, "final": False}


def _sentence(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__


if __name__ == "__main__":
    serve(handle)
