"""Discovery of the gateway: by option, environment variable or login."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.cli.client import Endpoint, NotSignedIn, Unreachable
from gateway.cli.login import read_login
from infrastructure.settings import Settings


@dataclass(frozen=True)
class RemoteFinder:
    """A finder of the gateway and the API key.

    Options and environment variables override the login.
    """

    settings: Settings

    def endpoint(self) -> Endpoint:
        """Return the gateway, key and account to use. Raise ClientError if one is missing.

        A stored key is used only for the gateway for which it was stored.
        """
        return replace(self._endpoint(), account=self.settings.account)

    def given(self) -> tuple[str | None, str | None]:
        """Return the URL and the key in the settings. The default URL is the local stack's."""
        return self.settings.gateway_url or self.local_url(), self.settings.api_key

    def local_url(self) -> str | None:
        """Return the URL of the EcoLink on this machine, or None. A client has none."""
        return None

    def local_key(self) -> str | None:
        """Return an API key for the EcoLink on this machine, or None."""
        return None

    @property
    def hint(self) -> str:
        """How to select a gateway."""
        return (
            "No EcoLink is selected. Sign in with `ecolink login URL`, or pass --url or "
            "ECOLINK_GATEWAY_URL."
        )

    def _endpoint(self) -> Endpoint:
        url, key = self.settings.gateway_url, self.settings.api_key
        login = read_login()
        if login is not None and url in (None, login.url):
            return login if key is None else Endpoint(login.url, key)
        if url is None:
            url = self.local_url()
            key = key or self.local_key()
        if url is None:
            raise Unreachable(self.hint)
        if key is None:
            raise NotSignedIn(
                f"There is no API key for {url}. Run `ecolink login`, or pass --key or "
                "ECOLINK_API_KEY."
            )
        return Endpoint(url, key)
