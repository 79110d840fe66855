"""Discovery of the gateway on the host of a server, which includes the local stack."""

from __future__ import annotations

from deploy.local.home import Home
from deploy.local.stack import running
from gateway.cli.endpoint import RemoteFinder

DEMO_KEY = "demo_key"
"""Name of the file in the home that stores an API key of the demo account."""


class LocalFinder(RemoteFinder):
    """A finder that falls back to the local stack and the demo account."""

    def local_url(self) -> str | None:
        """Return the URL of the local stack, or None if it is not running."""
        local = running(self.settings.home)
        return None if local is None else local.gateway_url

    def local_key(self) -> str | None:
        """Return the API key of the demo account, or None if there is no demo account."""
        try:
            return (Home.of(self.settings).root / DEMO_KEY).read_text().strip()
        except FileNotFoundError:
            return None

    @property
    def hint(self) -> str:
        """How to start or select a gateway."""
        return (
            f"EcoLink is not running in {self.settings.home.resolve()}. Start it with "
            "`ecolink up`, or sign in to a remote one with `ecolink login URL`."
        )
