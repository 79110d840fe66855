"""`python -m deploy.docker.healthy` is the health check of a container.

Without an argument, the process must have touched its ECOLINK_BEAT_FILE. With a port, it must
also answer GET /healthz without an error of the server (5xx). The exit status is 0 if the process
is healthy. It imports as little as possible, because it runs often.
"""

from __future__ import annotations

import os
import sys
import time

MAX_AGE_SECONDS = 30.0
"""Age of the last beat at which a process is unhealthy. It beats every second."""

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
    healthy = beats(os.environ["ECOLINK_BEAT_FILE"], time.time())
    return 0 if healthy and all(answers(int(port)) for port in sys.argv[1:]) else 1


if __name__ == "__main__":
    sys.exit(main())
