"""Discovery of the gateway for account owners' commands: by option, login or local stack."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deploy.local.home import Home
from deploy.local.stack import running
from gateway.cli.client import Endpoint, NotSignedIn, Unreachable
from gateway.cli.login import read_login
from infrastructure.settings import Settings

DEMO_KEY = "demo_key"
"""Name of the file in the home that stores an API key of the demo account."""


@dataclass(frozen=True)
class Finder:
    """A finder of the gateway and the API key.

    Options and environment variables override the login.
    """

    settings: Settings

    def endpoint(self) -> Endpoint:
        """Return the gateway, key and account to use. Raise ClientError if one is missing.

        A stored key is used only for the gateway for which it was stored.
        """
        return replace(self._endpoint(), account=self.settings.account)

    def _endpoint(self) -> Endpoint:
        url, key = self.settings.gateway_url, self.settings.api_key
        login = read_login()
        if login is not None and url in (None, login.url):
            return login if key is None else Endpoint(login.url, key)
        if url is None:
            url = _running_url(self.settings)
            key = key or _demo_key(self.settings)
        if url is None:
            raise Unreachable(
                f"EcoLink is not running in {self.settings.home.resolve()}. Start it with "
                "`ecolink up`, or sign in to a remote one with `ecolink login URL`."
            )
        if key is None:
            raise NotSignedIn(
                f"There is no API key for {url}. Run `ecolink login`, or pass --key or "
                "ECOLINK_API_KEY."
            )
        return Endpoint(url, key)

    def given(self) -> tuple[str | None, str | None]:
        """Return the URL and the key in the settings. The default URL is the local stack's."""
        url = self.settings.gateway_url or _running_url(self.settings)
        return url, self.settings.api_key


def _running_url(settings: Settings) -> str | None:
    local = running(settings.home)
    return None if local is None else local.gateway_url


def _demo_key(settings: Settings) -> str | None:
    try:
        return (Home.of(settings).root / DEMO_KEY).read_text().strip()
    except FileNotFoundError:
        return None
