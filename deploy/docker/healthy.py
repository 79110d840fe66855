"""`python -m deploy.docker.healthy` is the health check of a container.

Without an argument, the process must have touched its ECOLINK_BEAT_FILE. With a port, it must
also answer GET /healthz without an error of the server (5xx). With `--alive`, it is enough that the
process waits for the database or its migration. The exit status is 0 if the process is healthy. It
imports as little as possible, because it runs often.
"""

from __future__ import annotations

import os
import sys
import time

MAX_AGE_SECONDS = 30.0
"""Age of the last beat at which a process is unhealthy. It beats every second."""

WAITING = ".waiting"
"""Ending of the file of a waiting process, as in infrastructure.postgres.schema_revision."""

ANSWER_SECONDS = 5.0
SERVER_ERROR = 500
"""The lowest HTTP status that is an error of the server."""


def beats(path: str, now: float) -> bool:
    """Return True if the file was touched less than MAX_AGE_SECONDS ago."""
    try:
        return now - os.stat(path).st_mtime < MAX_AGE_SECONDS  # noqa: PTH116 - pathlib is slow
    except OSError:
        return False


def answers(port: int) -> bool:
    """Return True if the process on this port answers without an error of the server."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status < SERVER_ERROR
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    """Return 0 if the process is healthy, otherwise 1."""
    path, now, arguments = os.environ["ECOLINK_BEAT_FILE"], time.time(), sys.argv[1:]
    if arguments == ["--alive"]:
        return 0 if beats(path, now) or beats(path + WAITING, now) else 1
    return 0 if beats(path, now) and all(answers(int(port)) for port in arguments) else 1


if __name__ == "__main__":
    sys.exit(main())
