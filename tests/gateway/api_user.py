"""An account holder who calls the API with their key."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi.testclient import TestClient

from tests.builders.platform import Person


class ApiUser:
    """An account holder, and a client that sends their key."""

    def __init__(self, client: TestClient, person: Person) -> None:
        self.client, self.person = client, person

    def get(self, path: str, **asked: Any) -> httpx.Response:
        return self.client.get(path, params=asked or None, headers=self.person.headers)

    def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers=self.person.headers | headers)

    def list(self, path: str, **asked: Any) -> Any:
        """Return the objects of a list."""
        answer = self.get(path, **asked)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]
