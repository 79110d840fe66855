"""A process that begins a verification and never ends it."""

from __future__ import annotations

import sys
import time

from infrastructure.seals.verifications import begin, verifying
from services.auditor.verifying import Request


def main() -> None:
    request = Request.model_validate_json(sys.stdin.buffer.readline())
    with verifying(request.settings) as connection:
        assert connection is not None
        begin(connection, request.id, request.requested_by, request.options)
        print("true", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main()
