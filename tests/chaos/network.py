"""Network namespaces for some services, whose links the harness can cut. They need root and `ip`.

Each service has a namespace with one end of a veth pair. A forwarder on the other end passes its
connections on to PostgreSQL and NATS, which listen on the loopback of the host. A cut sets the
host's end down, so that packets are lost in both directions and connections stay open.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import psutil

from deploy.local.child import tethered
from infrastructure.settings import Settings

NETWORK = "CHAOS_NETWORK"
"""Environment variable with the namespace, the host's and the own address of each service, as JSON.
"""

STANDBY = "CHAOS_STANDBY"
"""Environment variable of a standby, which has a namespace of its own if there is one."""

CLONE_NEWNET = 0x40000000
NAMESPACES = Path("/run/netns")
LOOPBACK = "127.0.0.1"
NUMBERS = count(1)


class Network:
    """One namespace for each service. Close it after the processes in it have ended."""

    def __init__(self, services: tuple[str, ...], ports: tuple[int, ...]) -> None:
        self._links: dict[str, str] = {}
        self._namespaces: dict[str, str] = {}
        self._inside: dict[str, str] = {}
        self._forwarder: subprocess.Popen[bytes] | None = None
        known: dict[str, tuple[str, str, str]] = {}
        _delete_stale()
        for number, service in enumerate(services):
            unique = next(NUMBERS)  # the kernel deletes the links of a namespace later
            namespace, link = f"chaos-{os.getpid()}-{unique}", f"c{os.getpid() % 10**6}n{unique}"
            subnet = f"10.{100 + os.getpid() % 100}.{number}"
            self._inside[service] = f"{subnet}.2"
            self._links[service], self._namespaces[service] = link, namespace
            known[service] = (namespace, f"{subnet}.1", f"{subnet}.2")
            _ip("netns", "add", namespace)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _ip("addr", "add", f"{subnet}.1/24", "dev", link)
            _ip("link", "set", link, "up")
            inside = ("-n", namespace)
            _ip(*inside, "addr", "add", f"{self.inside(service)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip(*inside, "link", "set", device, "up")
        os.environ[NETWORK] = json.dumps(known)
        addresses = [address for _, address, _ in known.values()]
        arguments = [*map(str, ports), "--", *addresses]
        argv = (sys.executable, "-m", "tests.chaos.network", *arguments)
        self._forwarder = subprocess.Popen(tethered(argv), stdin=subprocess.DEVNULL)

    def inside(self, service: str) -> str:
        """Return the address of a service in its namespace, which the host can reach."""
        return self._inside[service]

    def cut(self, service: str) -> None:
        """Lose all packets between a service and the host."""
        _ip("link", "set", self._links[service], "down")

    def restore(self, service: str) -> None:
        """Connect a service again."""
        _ip("link", "set", self._links[service], "up")

    def close(self) -> None:
        """End the forwarder, and delete the namespaces with their links."""
        os.environ.pop(NETWORK, None)
        if self._forwarder is not None:
            self._forwarder.kill()
            self._forwarder.wait()
        for service, link in self._links.items():
            with suppress(subprocess.CalledProcessError):
                _ip("link", "del", link)
                _ip("netns", "del", self._namespaces[service])


def is_possible() -> bool:
    """Return True if this process may create network namespaces."""
    name = f"chaos-{os.getpid()}-probe"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def enter(service: str, settings: Settings) -> Settings:
    """Move this process into the namespace of a service, if there is one.

    Return settings with the addresses of the servers, and of serving, inside it. Call this before
    the process has connections. Threads that already run stay outside.
    """
    known = json.loads(os.environ.get(NETWORK, "{}"))
    if STANDBY in os.environ and f"standby-{service}" in known:
        service = f"standby-{service}"
    if service not in known:
        return settings
    namespace, address, own = known[service]
    with (NAMESPACES / namespace).open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"setns {namespace}: {os.strerror(code)}")
    urls = {
        name: url.replace(LOOPBACK, address)
        for name in ("database_url", "nats_url")
        if (url := getattr(settings, name)) is not None
    }
    return settings.model_copy(update=urls | {"serving_host": own})


def _delete_stale() -> None:
    """Delete the namespaces of harnesses that were killed."""
    for path in NAMESPACES.glob("chaos-*-*"):
        if not psutil.pid_exists(int(path.name.split("-")[1])):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", path.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


async def _forward(addresses: list[str], ports: list[int]) -> None:
    """Pass connections to these addresses on to the same ports of the loopback."""
    for address in addresses:
        for port in ports:
            await asyncio.start_server(partial(_serve, port), address, port)
    await asyncio.Event().wait()


async def _serve(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        upstream, downstream = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        writer.close()
        return
    copies = {
        asyncio.create_task(_copy(reader, downstream)),
        asyncio.create_task(_copy(upstream, writer)),
    }
    _, rest = await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    for end in (writer, downstream):
        end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


if __name__ == "__main__":
    middle = sys.argv.index("--")
    asyncio.run(_forward(sys.argv[middle + 1 :], [int(each) for each in sys.argv[1:middle]]))
