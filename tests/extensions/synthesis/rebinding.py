"""The client of external endpoints, for the test of host names that change their address."""

from __future__ import annotations

from domain.core.target import TargetPolicy, parsed_networks
from extensions.synthesis.process.models import open_connections
from infrastructure.settings import Settings

POLICY = TargetPolicy(parsed_networks("127.0.0.2/32"), http=True)


async def synthesis(url: str) -> None:
    """Send a request to an external endpoint."""
    async with open_connections(Settings(serving_secret="x"), POLICY) as connections:
        await connections.external.post(url, json={})


client = synthesis
