"""A process that imports modules once, and forks the programs that need them from itself.

The supervisor forks the server before it knows a secret. The server has one thread, and opens no
socket. A program reads its arguments and variables only after its fork, so it has no secret of
another program. The parent of each program is the supervisor, as if it had started it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from io import BufferedWriter
from pathlib import Path
from typing import NoReturn

from deploy.local.tether import check, follow, libc

PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
FORK_SECONDS = 60.0
"""Seconds for which the supervisor waits for a fork. The first one waits for the imports."""

log = logging.getLogger("supervisor")


@dataclass(frozen=True)
class Forked:
    """A forked program, which is a child of this process."""

    pid: int

    def wait(self) -> int:
        """Wait until the program ends. Return its exit code, or its negative signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class ForkServer:
    """The fork server, as its supervisor sees it."""

    def __init__(self, modules: Iterable[str]) -> None:
        """Fork the server, which imports the modules. Call this with one thread, and no secret.

        From now on, orphans of this process become its children.
        """
        check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
        self._requests, served = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        supervisor = os.getpid()
        gc.freeze()  # a later collection would copy the pages of all objects
        if os.fork() == 0:
            _serve(served, supervisor, modules)
        served.close()

    def start(
        self, argv: Sequence[str], variables: Mapping[str, str], output: BufferedWriter
    ) -> Forked | None:
        """Run `python -P -m MODULE ...` in a new session. Return None if the server has ended."""
        own, far = socket.socketpair()
        with own:
            own.settimeout(FORK_SECONDS)
            try:
                with far:
                    socket.send_fds(self._requests, [b"f"], [far.fileno(), output.fileno()])
                own.sendall(json.dumps([list(argv), dict(variables)]).encode())
                own.shutdown(socket.SHUT_WR)
                pid = own.recv(64)
            except OSError:
                pid = b""
        if pid:
            return Forked(int(pid))
        log.warning("the fork server does not respond, so each program imports its modules itself")
        self._requests.close()
        return None


def _serve(requests: socket.socket, supervisor: int, modules: Iterable[str]) -> NoReturn:
    """Import the modules, and fork a program for each request until the supervisor ends."""
    follow(supervisor, signal.SIGKILL)
    served = requests.fileno()
    os.closerange(3, served)
    os.closerange(served + 1, os.sysconf("SC_OPEN_MAX"))
    gc.disable()
    started = time.time()
    for module in modules:
        try:
            import_module(module)
        except Exception:  # the program itself reports it
            logging.getLogger("fork_server").exception("cannot import %s", module)
    sources = "\n".join(filter(None, (getattr(m, "__file__", None) for m in sys.modules.values())))
    gc.freeze()
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        sys.exit("The fork server has several threads.")
    while True:
        message, handles, _, _ = socket.recv_fds(requests, 1, 2)
        if not message:
            os._exit(0)
        if _fork(supervisor):
            requests.close()
            connection, output = handles
            _run(connection, output, sources, started)
        for handle in handles:
            os.close(handle)


def _fork(supervisor: int) -> bool:
    """Fork twice, so that the supervisor becomes the parent. Return True in the new process."""
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return False
    between = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == between:
        time.sleep(0.001)
    os.setsid()
    follow(supervisor, signal.SIGKILL)
    return True


def _run(connection: int, output: int, sources: str, started: float) -> NoReturn:
    """Read a request, and run its module as this process."""
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    with socket.socket(fileno=connection) as supervisor, supervisor.makefile("rb") as request:
        argv, variables = json.loads(request.read())
        supervisor.sendall(str(os.getpid()).encode())
    os.environ.clear()
    os.environ.update(variables)
    _show(argv)
    if _is_changed_since(started, sources):
        logging.getLogger("fork_server").warning(
            "The source has changed, but this process runs that of the time when EcoLink started. "
            "To run the new one, restart EcoLink."
        )
    gc.enable()
    module, *sys.argv[1:] = argv[argv.index("-m") + 1 :]
    import_module(module).main()
    sys.exit()


def _show(argv: Sequence[str]) -> None:
    """Let `ps` show the command of the program, not that of the supervisor."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    text = "\0".join(argv).encode()[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _is_changed_since(time: float, files: str) -> bool:
    """Return True if a file has changed after this time."""
    for path in files.splitlines():
        with suppress(OSError):
            if Path(path).stat().st_ctime > time:
                return True
    return False
