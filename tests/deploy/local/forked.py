"""A program for the fork server."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path


def main() -> None:
    """Write facts about this process, and end as the first argument says."""
    facts = {
        "arguments": sys.argv[1:],
        "command": Path("/proc/self/cmdline").read_text().rstrip("\0").split("\0"),
        "variables": dict(os.environ),
        "initial_variables": Path("/proc/self/environ").read_text(),
        "parent": os.getppid(),
        "leads_session": os.getsid(0) == os.getpid(),
        "handles": sorted(int(each.name) for each in Path("/proc/self/fd").iterdir()),
        "threads": threading.active_count(),
    }
    print(json.dumps(facts), flush=True)
    match sys.argv[1]:
        case "stay":
            signal.pause()
        case "fail":
            raise RuntimeError("it failed")
        case code:
            sys.exit(int(code))


if __name__ == "__main__":
    main()
