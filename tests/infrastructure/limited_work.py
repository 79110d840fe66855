"""Work for the tests of limited processes, run by `python -m`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from infrastructure.process.limited_process import serve


def handle(request: dict[str, Any], on_progress: Callable[[Mapping[str, Any]], None]) -> Any:
    """Do the work of a test's request."""
    match request["do"]:
        case "report":
            on_progress({"done": 1})
            on_progress({"done": 2})
            return {"environment": dict(os.environ), "pid": os.getpid()}
        case "compute":
            on_progress({"pid": os.getpid()})
            while True:
                pass
        case "allocate":
            return {"size": len(bytearray(1024**3))}
        case "abort":
            os.abort()
        case "wait":
            time.sleep(600)
    sys.exit("no idea")


if __name__ == "__main__":
    serve(handle)
