"""The client of trackers, for the test of host names that change their address."""

from __future__ import annotations

from domain.core.target import TargetPolicy, parsed_networks
from extensions.trackers.connections import Server
from extensions.trackers.process.server_client import ServerClient
from infrastructure.http.guarded import GuardedTransport

POLICY = TargetPolicy(parsed_networks("127.0.0.2/32"), http=True)


async def tracker(url: str) -> None:
    """Send a request to a tracker."""
    transport = GuardedTransport(POLICY)
    await ServerClient("MLflow", Server(url), POLICY, transport).request("GET", "/")
    await transport.aclose()


client = tracker
