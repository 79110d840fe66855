"""Lockouts of client addresses that send wrong keys. Each lockout is twice as long as the last.

Keys have too many bits to be guessed. Lockouts limit the load on the gateway and record attempts
for the operator.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address, ip_network

from gateway.http.errors import RateLimited
from infrastructure.http.limits import Limits

MOST_ADDRESSES = 10_000
MOST_SECONDS = 900
KEPT_SECRETS = 256
REPEATS = 100
"""Attempts with one wrong key, maybe of a forgotten program, that cause a security event."""

Record = Callable[[str, str, str], None]
"""A function that stores a security event: its kind, the client's address, and a sentence."""


@dataclass
class Behavior:
    """The valid and wrong secrets that an address has sent."""

    wrong: OrderedDict[bytes, int] = field(default_factory=OrderedDict)
    """Number of attempts by hash of the wrong secret."""
    right: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    count: float = 0.0
    """Number of different wrong secrets. It decreases with time."""
    seen_at: float = 0.0
    lockouts: int = 0
    until: float = 0.0


class Lockout:
    """Lockouts by client address. Thread-safe."""

    def __init__(
        self, limits: Limits, record: Record, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._free = limits["refused_credentials"]
        self._memory_seconds = limits.declared["refused_credentials"].per_seconds or MOST_SECONDS
        self._record, self._clock = record, clock
        self._addresses: OrderedDict[str, Behavior] = OrderedDict()
        self._lock = threading.Lock()

    def require_open(self, address: str, secret: str) -> None:
        """Raise RateLimited if the address is locked out, except for keys that worked from it."""
        with self._lock:
            shown = self._addresses.get(network_of(address))
            if shown is None or _hash(secret) in shown.right:
                return
            left = shown.until - self._clock()
        if left > 0:
            seconds = math.ceil(left)
            raise RateLimited(
                f"Too many wrong keys from {address}. Try again in {seconds:,} s.", seconds, {}
            )

    def refused(self, address: str, secret: str) -> None:
        """Record a wrong secret. Repeating the same secret does not cause a lockout."""
        now, network, sha = self._clock(), network_of(address), _hash(secret)
        event: tuple[str, str] | None = None
        with self._lock:
            shown = self._behavior(network)
            elapsed = now - shown.seen_at
            shown.count = max(0.0, shown.count - elapsed * self._free / self._memory_seconds)
            if elapsed > self._memory_seconds:
                shown.lockouts = 0
            shown.seen_at = now
            repeats = shown.wrong[sha] = shown.wrong.pop(sha, 0) + 1
            _trim(shown.wrong)
            if repeats == REPEATS:
                event = ("repeated_refusal", f"the client sent the same wrong key {REPEATS} times")
            if repeats == 1:
                shown.count += 1
                if shown.count > self._free:
                    seconds = min(MOST_SECONDS, 2**shown.lockouts)
                    shown.lockouts += 1
                    shown.until = now + seconds
                    said = (
                        f"locked out for {seconds:,} s after {math.ceil(shown.count):,} wrong keys"
                    )
                    event = ("lockout", said)
        if event is not None:
            self._record(event[0], address, event[1])

    def accepted(self, address: str, secret: str) -> None:
        """Record a valid key, which keeps working from this address during a lockout."""
        with self._lock:
            right = self._behavior(network_of(address)).right
            right[_hash(secret)] = None
            right.move_to_end(_hash(secret))
            _trim(right)

    def _behavior(self, network: str) -> Behavior:
        shown = self._addresses.setdefault(network, Behavior())
        self._addresses.move_to_end(network)
        if len(self._addresses) > MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        return shown


def network_of(address: str) -> str:
    """Return the address or, for IPv6, its /64 network, which belongs to one client."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(ip_network((parsed, 64), strict=False))
    return str(parsed)


def _hash(secret: str) -> bytes:
    return blake2b(secret.encode(errors="replace"), digest_size=16).digest()


def _trim(kept: OrderedDict[bytes, int] | OrderedDict[bytes, None]) -> None:
    while len(kept) > KEPT_SECRETS:
        kept.popitem(last=False)
