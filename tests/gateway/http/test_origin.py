"""A gateway behind a reverse proxy with a public address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from domain.core.target import parsed_networks
from gateway.app import server_config
from gateway.http.sessions import COOKIE
from infrastructure.http.connection_guard import ConnectionGuard
from infrastructure.http.limits import Limits
from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.gateway.conftest import application

PUBLIC = "https://ecolink.example.org"
INSIDE = "http://10.0.0.7:8000"


@pytest.fixture
def proxied(settings: Settings, projecting: None) -> Iterator[TestClient]:
    """A request from the proxy: with another host name, and without TLS."""
    public = settings.model_copy(update={"public_url": PUBLIC})
    with TestClient(application(public), INSIDE, raise_server_exceptions=False) as client:
        yield client


def test_commands_are_accepted_only_from_the_public_address(
    proxied: TestClient, platform: Platform
) -> None:
    person = platform.person()
    for origin, status in ((PUBLIC, 303), (INSIDE, 403), ("http://ecolink.example.org", 403)):
        answer = proxied.post(
            "/sign-in",
            data={"api_key": person.key},
            headers={"origin": origin},
            follow_redirects=False,
        )
        assert answer.status_code == status, origin


def test_the_cookie_is_secure_if_the_public_address_is_https(
    proxied: TestClient, platform: Platform
) -> None:
    form = {"api_key": platform.person().key}
    secured = proxied.post("/sign-in", data=form, follow_redirects=False)
    assert "; secure" in secured.headers["set-cookie"].lower()


@pytest.mark.full
def test_snippets_have_the_public_address(proxied: TestClient, platform: Platform) -> None:
    person = platform.person(dollars=20)
    platform.base_model()
    answer = proxied.post("/sign-in", data={"api_key": person.key}, follow_redirects=False)
    cookie = {"cookie": f"{COOKIE}={answer.cookies[COOKIE]}"}
    platform.project()
    page = proxied.get("/models?model=tiny", headers=cookie).text
    assert f"{PUBLIC}/v1" in page
    assert INSIDE not in page
    filled = {"dataset": str(platform.dataset(person)), "base_model": "tiny"}
    job = proxied.post("/api/jobs", json=filled, headers=person.headers).json()["id"]
    page = proxied.get(f"/fine-tune/new?like={job}", headers=cookie).text
    assert f"{PUBLIC}/v1" in page
    assert INSIDE not in page


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://EcoLink.example.org/", "https://ecolink.example.org"),
        ("https://ecolink.example.org:443", "https://ecolink.example.org"),
        ("http://10.0.0.7:8000", "http://10.0.0.7:8000"),
        (None, None),
    ],
)
def test_an_address_is_normalized_like_an_origin_header(
    written: str | None, meant: str | None
) -> None:
    assert Settings(public_url=written).public_url == meant


@pytest.mark.parametrize(
    "written", ["ecolink.example.org", "ftp://x", "https://x/ecolink", "https://x?y", "https://u@x"]
)
def test_an_invalid_origin_is_refused(written: str) -> None:
    with pytest.raises(ValidationError, match="public_url"):
        Settings(public_url=written)


@pytest.mark.parametrize(
    ("written", "public", "meant"),
    [
        ("10.0.0.10, 2001:db8::/32,", None, "10.0.0.10/32, 2001:db8::/32"),
        ("", PUBLIC, ""),
        (None, PUBLIC, "127.0.0.1, ::1"),
        (None, None, ""),
    ],
)
def test_proxies_are_networks(written: str | None, public: str | None, meant: str) -> None:
    found = Settings(trusted_proxies=written, public_url=public).proxies
    assert found == parsed_networks(meant)


@pytest.mark.parametrize("wrong", ["*", "proxy.example.org", "10.0.0.1/8", "10.0.0.0/33"])
def test_a_proxy_that_is_no_network_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="trusted_proxies") as refused:
        Settings(trusted_proxies=f"192.0.2.7, {wrong}")
    assert f"{wrong!r}" in str(refused.value)
    assert "10.0.0.0/24" in str(refused.value), "an example"


@pytest.mark.parametrize(("peer", "seen"), [("10.0.3.9", "192.0.2.7"), ("10.1.0.9", "10.1.0.9")])
async def test_the_gateway_reads_the_header_of_a_proxy_in_a_network(peer: str, seen: str) -> None:
    clients: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        clients.append(scope["client"][0])

    settings = Settings(trusted_proxies="10.0.0.0/16")
    config = server_config(app, settings, ConnectionGuard(Limits({})))
    config.load()
    headers = [(b"x-forwarded-for", b"192.0.2.7")]
    scope: Any = {"type": "http", "client": (peer, 1), "headers": headers}
    await config.loaded_app(scope, Mock(), Mock())
    assert clients == [seen]
