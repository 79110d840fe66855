"""A gateway behind a reverse proxy with a public address."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from gateway.http.sessions import COOKIE
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
