"""Where the account holder's commands find the gateway: as told, else on this machine."""

from __future__ import annotations

from deploy.local.home import Home
from deploy.local.stack import running
from gateway.client import ClientError, Endpoint
from infrastructure.settings import Settings

DEMO_KEY = "demo_key"
"""File in the home with an API key of the demo's account."""


def find_endpoint(settings: Settings) -> Endpoint:
    """The configured gateway, else that of the stack that runs on the home; raises ClientError."""
    url, key = settings.gateway_url, settings.api_key
    if url is None:
        local = running(settings.home)
        if local is None or local.gateway_url is None:
            raise ClientError(
                f"EcoLink is not running on {settings.home.resolve()}; "
                "start it with `ecolink up`, or give another gateway with --url."
            )
        url = local.gateway_url
        # Only here: a key of this machine is nothing to show to another gateway.
        key = key or _demo_key(settings)
    if key is None:
        raise ClientError("Which account? Give its API key with --key or in ECOLINK_API_KEY.")
    return Endpoint(url, key)


def _demo_key(settings: Settings) -> str | None:
    try:
        return (Home.of(settings).root / DEMO_KEY).read_text().strip()
    except FileNotFoundError:
        return None
