"""The real `openai` client with a gateway in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from openai import OpenAI

from tests.gateway.conftest import Person

ClientOf = Callable[[Person], OpenAI]


@pytest.fixture
def client_of(client: TestClient) -> ClientOf:
    """Return a client of a person, without automatic retries."""

    def make(person: Person) -> OpenAI:
        return OpenAI(
            api_key=person.key, base_url="http://testserver/v1", http_client=client, max_retries=0
        )

    return make
