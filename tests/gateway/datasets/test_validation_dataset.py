"""Pages that name a job's dataset also name its validation dataset."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import pytest

from infrastructure.accounts.profiles import delete_dataset_name, set_dataset_name
from infrastructure.postgres.store import connect
from tests.builders.platform import Platform
from tests.gateway.web.html import read_html
from tests.gateway.web.signed_in import Browser


@dataclass(frozen=True)
class Judged:
    """A job with a validation dataset, and two on the same dataset without."""

    browser: Browser
    platform: Platform
    validation: UUID
    jobs: list[str]

    def page(self, path: str) -> str:
        self.platform.project()
        answer = self.browser.client.get(f"/fine-tune/{path}")
        assert answer.status_code == 200
        return answer.text

    def settings(self, job: str) -> str:
        """Return the settings on the job's page."""
        return read_html(self.page(job))["job-settings"].text


@pytest.fixture
def judged(browser: Browser, platform: Platform) -> Judged:
    platform.base_model()
    trained, validation = (platform.dataset(browser.person) for _ in range(2))
    with connect(platform.settings) as connection:
        set_dataset_name(connection, trained, "chats")
        set_dataset_name(connection, validation, "judges <1>")
    jobs: list[str] = []
    for own in (str(validation), None, None):
        body = {"dataset": str(trained), "validation_dataset": own, "base_model": "tiny"}
        answer = browser.client.post("/api/jobs", json=body | {"wait": True}, headers=browser.htmx)
        jobs.append(answer.json()["id"])
    return Judged(browser, platform, validation, jobs)


def test_the_settings_name_the_validation_dataset(judged: Judged) -> None:
    with_own, without, _ = judged.jobs
    named = "Dataset chats Validation dataset {} Base model"
    assert named.format("judges <1>") in judged.settings(with_own)
    assert "Validation dataset" not in judged.settings(without)
    with connect(judged.platform.settings) as connection:
        delete_dataset_name(connection, judged.validation)
    assert named.format("a deleted dataset") in judged.settings(with_own)


def test_a_comparison_names_each_validation_dataset(judged: Judged) -> None:
    page = judged.page("compare?jobs={}&jobs={}".format(*judged.jobs[:2]))
    row = '<th scope="row">Validation dataset</th>'
    link = f'<a href="/datasets/{judged.validation}">judges &lt;1&gt;</a>'
    assert f"{row}<td>{link}</td><td>a part of the dataset</td>" in page
    assert row not in judged.page("compare?jobs={}&jobs={}".format(*judged.jobs[1:]))


def test_a_duplicate_keeps_the_validation_dataset(judged: Judged) -> None:
    wizard = read_html(judged.page(f"new?like={judged.jobs[0]}"))
    assert wizard.fields["validation_dataset"] == str(judged.validation)
