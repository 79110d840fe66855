"""A process of the gateway that runs one verification: `python -m services.auditor`.

It reads a request as a line of JSON, and writes `true` as a line once the verification is stored,
or `false` if another one runs. The gateway passes its settings in the request, so that no secret is
among the arguments.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

from infrastructure.process.limited_process import NICENESS
from services.auditor.verifying import Request, run


def main() -> int:
    """Run the requested verification. Return the exit code, which is 1 if it failed."""
    os.nice(NICENESS)
    request = Request.model_validate_json(sys.stdin.buffer.readline())
    try:
        run(request, lambda started: print(json.dumps(started), flush=True))
    except Exception:  # noqa: BLE001 - reported in the log of the gateway, as one line
        print(ascii(traceback.format_exc()), file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
