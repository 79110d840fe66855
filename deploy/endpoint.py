"""Find the gateway for the account holder's commands: by option, by login, or on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.local.home import Home
from deploy.local.stack import running
from gateway.cli.client import Endpoint, NotSignedIn, Unreachable
from gateway.cli.login import read_login
from infrastructure.settings import Settings

DEMO_KEY = "demo_key"
"""File in the home with an API key of the demo account."""


@dataclass(frozen=True)
class Finder:
    """Finds the gateway and the key. Options and environment take precedence over the login."""

    settings: Settings

    def endpoint(self) -> Endpoint:
        """The gateway and the key to use; raises ClientError.

        A stored key is only sent to the gateway that it was stored for.
        """
        url, key = self.settings.gateway_url, self.settings.api_key
        login = read_login()
        if login is not None and url in (None, login.url):
            return login if key is None else Endpoint(login.url, key)
        if url is None:
            url = self._local_url()
            key = key or _demo_key(self.settings)
        if key is None:
            raise NotSignedIn(
                f"No API key for {url}. Run `ecolink login`, or pass --key or ECOLINK_API_KEY."
            )
        return Endpoint(url, key)

    def given(self) -> tuple[str | None, str | None]:
        """URL and key from options or the environment. The URL defaults to the stack on this
        machine."""
        url = self.settings.gateway_url
        return url or _running_url(self.settings), self.settings.api_key

    def _local_url(self) -> str:
        url = _running_url(self.settings)
        if url is None:
            raise Unreachable(
                f"EcoLink is not running in {self.settings.home.resolve()}. Start it with "
                "`ecolink up`, or sign in to another one with `ecolink login URL`."
            )
        return url


def _running_url(settings: Settings) -> str | None:
    local = running(settings.home)
    return None if local is None else local.gateway_url


def _demo_key(settings: Settings) -> str | None:
    try:
        return (Home.of(settings).root / DEMO_KEY).read_text().strip()
    except FileNotFoundError:
        return None
