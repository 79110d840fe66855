"""A test client with the session cookie of a browser."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi.testclient import TestClient

from tests.builders.platform import Person


@dataclass(frozen=True)
class Browser:
    """A client with a person's session and CSRF token."""

    client: TestClient
    person: Person
    csrf_token: str

    @property
    def htmx(self) -> dict[str, str]:
        """Return the headers of an htmx request."""
        return {"hx-request": "true", "x-csrf-token": self.csrf_token}


def signed_in(client: TestClient, person: Person) -> Browser:
    """Sign a client in."""
    answer = client.post("/sign-in", data={"api_key": person.key}, follow_redirects=False)
    assert answer.status_code == 303
    page = client.get("/datasets").text
    token = page.partition('"x-csrf-token": "')[2].partition('"')[0]
    assert token
    return Browser(client, person, token)
