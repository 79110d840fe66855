"""A small supervisor that starts a program with the fork server."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from deploy.local.child import Child, Program
from deploy.local.fork_server import ForkServer
from tests.polling import eventually

MODULE = "tests.deploy.local.forked"
CONFIDENTIAL = "CONFIDENTIAL"
IMPORTED = "imported.py"


def supervise(log: Path, *arguments: str) -> Child:
    """Fork the server, then learn a secret, and start the program as a child."""
    (log.parent / IMPORTED).touch()
    sys.path.append(str(log.parent))
    server = ForkServer([MODULE, "imported"])
    os.environ[CONFIDENTIAL] = "known"
    argv = (sys.executable, "-P", "-m", MODULE, *arguments)
    child = Child(Program("forked", argv, {"OWN": "1", "PATH": "/bin"}, forks=True), log, server)
    child.start()
    return child


def end_server(child: Child) -> None:
    """Kill the fork server, which is the other child of this process."""
    own = child.status.pid
    servers = [
        int(pid)
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        if int(pid) != own
    ]
    for pid in servers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def ticked(child: Child, starts: int) -> bool:
    """Tick the child. Return True if it has started as often."""
    child.tick()
    return child.restarts >= starts and child.alive


def run(script: str, log: Path) -> None:
    """Run a test's part in the process of the supervisor."""
    match script:
        case "exit":
            child = supervise(log, "3")
            eventually(lambda: child.tick() and not child.alive)
            print(child.exit_code)
        case "kill":
            child = supervise(log, "stay")
            eventually(child.tail)
            os.kill(child.status.pid or 0, signal.SIGTERM)
            eventually(lambda: child.tick() and not child.alive)
            print(child.exit_code)
        case "restart":
            child = supervise(log, "fail")
            eventually(lambda: ticked(child, 1))
        case "without":
            child = supervise(log, "stay")
            eventually(child.tail)
            end_server(child)
            os.kill(child.status.pid or 0, 0)  # it goes on
            child.terminate()
            eventually(lambda: child.tick() and not child.alive)
            child.start()
            eventually(lambda: child.tail(100).count("arguments") == 2)
        case "stay":
            child = supervise(log, "stay")
            eventually(child.tail)
            print(child.status.pid, flush=True)
            signal.pause()
        case "edited":
            child = supervise(log, "stay")
            eventually(child.tail)
            log.with_name(IMPORTED).touch()
            child.terminate()
            eventually(lambda: child.tick() and not child.alive)
            child.start()
            eventually(lambda: child.tail(100).count("arguments") == 2)


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))
