"""Account holders with jobs to track."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.builders.platform import Platform
from tests.gateway.api_user import ApiUser
from tests.gateway.cli.conftest import me as me
from tests.gateway.cli.conftest import url as url

MLFLOW = {"url": "https://mlflow.example.com/base", "secret": "token-1"}
WANDB = {"secret": "wandb-key-1"}
TO_MLFLOW: dict[str, Any] = {
    "type": "mlflow",
    "mlflow": {"experiment_name": "bot", "run_name": None, "tags": {"team": "a"}},
}


class Tracking(ApiUser):
    """An account holder with a form of a job."""

    def __init__(self, client: TestClient, platform: Platform) -> None:
        person, self.form = platform.ready()
        super().__init__(client, person)

    def connect(self, tracker: str = "mlflow", **form: Any) -> Any:
        answer = self.put(tracker, form or MLFLOW)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, tracker: str, form: Any) -> Any:
        path = f"/api/trackers/{tracker}"
        return self.client.put(path, json=form, headers=self.person.headers)


@pytest.fixture
def user(client: TestClient, platform: Platform) -> Tracking:
    return Tracking(client, platform)
