"""Where the account holder's commands find the gateway: as told, as signed in, or right here."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.local.home import Home
from deploy.local.stack import running
from gateway.cli.client import Endpoint, NotSignedIn, Unreachable
from gateway.cli.login import read_login
from infrastructure.settings import Settings

DEMO_KEY = "demo_key"
"""File in the home with an API key of the demo's account."""


@dataclass(frozen=True)
class Finder:
    """Finds the gateway and the key; options and environment go before what was stored."""

    settings: Settings

    def endpoint(self) -> Endpoint:
        """The gateway to call, and the key to show. Raises ClientError.

        A key is only shown to the gateway that it was stored for.
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
                f"Which account of {url}? `ecolink login` keeps an API key; "
                "--key or ECOLINK_API_KEY give one."
            )
        return Endpoint(url, key)

    def given(self) -> tuple[str | None, str | None]:
        """URL and key by option or environment; else the URL of the stack that runs here."""
        url = self.settings.gateway_url
        return url or _running_url(self.settings), self.settings.api_key

    def _local_url(self) -> str:
        url = _running_url(self.settings)
        if url is None:
            raise Unreachable(
                f"EcoLink is not running on {self.settings.home.resolve()}; start it with "
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
