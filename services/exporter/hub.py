"""The process that uploads files to a repository of a Hugging Face hub, with the hub's own client.

`infrastructure.limited_process` starts it. It reads the token from its standard input.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from infrastructure.hub_client import ENVIRONMENT
from infrastructure.limited_process import serve

CODES = {
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "no_repository",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
}
"""Codes of final refusals, by the status of the hub's response."""


class HubRefused(Exception):
    """The hub refuses the push. Another attempt would fail, too."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def handle(request: dict[str, Any], report: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Push files. Return the commit, or the code and the message of a refusal."""
    os.environ.update(ENVIRONMENT)  # the client reads them when it is imported
    try:
        return _push(request, lambda count: report({"bytes": count}))
    except HubRefused as refusal:
        return {"code": refusal.code, "message": str(refusal)}


def _push(request: dict[str, Any], on_bytes: Callable[[int], object]) -> dict[str, Any]:
    """Create the repository unless it exists, and commit files of a directory to it.

    A private push uploads nothing to a public repository. Large files are uploaded first, one by
    one, so a repeated push skips those that the hub has.
    Raise HubRefused if the hub refuses, and other errors if it cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repository, directory = request["repository"], Path(request["directory"])
    api = HfApi(endpoint=request["endpoint"], token=request["token"], library_name="ecolink")
    try:
        api.create_repo(repository, private=request["private"], repo_type="model", exist_ok=True)
        if request["private"] and not api.repo_info(repository, repo_type="model").private:
            # The hub ignores `private` for a repository that exists.
            raise HubRefused("public_repository", f"The repository {repository} is public.")
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
    except HFValidationError as error:
        raise HubRefused("invalid_name", str(error)) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in CODES:
            raise HubRefused(CODES[HTTPStatus(status)], _sentence(error)) from error
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in (
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.CONFLICT,
            HTTPStatus.TOO_MANY_REQUESTS,
        ):
            raise HubRefused("refused", _sentence(error)) from error
        raise
    return {"commit": done.oid, "url": done.commit_url}


def _sentence(error: Exception) -> str:
    """Return the last line of an error of the client, which is that of the server."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__


if __name__ == "__main__":
    serve(handle)
