"""Pages that name a job's dataset also name its validation dataset."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import pytest

from infrastructure.profiles import delete_dataset_name, set_dataset_name
from infrastructure.store import connect
from tests.builders.platform import Platform
from tests.gateway.web.html import Node, read_html
from tests.gateway.web.signed_in import Browser


@dataclass(frozen=True)
class Judged:
    """A job with a validation dataset, and two on the same dataset without."""

    browser: Browser
    platform: Platform
    validation: UUID
    with_own: str
    without: str
    without_either: str

    def page(self, path: str) -> str:
        self.platform.project()
        answer = self.browser.client.get(path)
        assert answer.status_code == 200
        return answer.text

    def settings(self, job: str) -> Node:
        """Return the settings on the job's page."""
        return read_html(self.page(f"/fine-tune/{job}"))["job-settings"]

    @property
    def link(self) -> str:
        """Return the validation dataset as pages show it."""
        return f'<a href="/datasets/{self.validation}">judges &lt;1&gt;</a>'


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
    return Judged(browser, platform, validation, *jobs)


def test_the_settings_name_the_validation_dataset(judged: Judged) -> None:
    settings = judged.settings(judged.with_own)
    assert "Dataset chats Validation dataset judges <1> Base model" in settings.text
    assert judged.link in judged.page(f"/fine-tune/{judged.with_own}")
    assert "Validation dataset" not in judged.settings(judged.without).text


def test_a_deleted_validation_dataset_has_no_name(judged: Judged) -> None:
    with connect(judged.platform.settings) as connection:
        delete_dataset_name(connection, judged.validation)
    settings = judged.settings(judged.with_own)
    assert "Dataset chats Validation dataset a deleted dataset Base model" in settings.text


def test_a_comparison_names_each_validation_dataset(judged: Judged) -> None:
    path = "/fine-tune/compare?jobs={}&jobs={}"
    page = judged.page(path.format(judged.with_own, judged.without))
    row = '<th scope="row">Validation dataset</th>'
    assert f"{row}<td>{judged.link}</td><td>a part of the dataset</td>" in page
    assert row not in judged.page(path.format(judged.without, judged.without_either))


def test_a_duplicate_keeps_the_validation_dataset(judged: Judged) -> None:
    wizard = read_html(judged.page(f"/fine-tune/new?like={judged.with_own}"))
    assert wizard.fields["validation_dataset"] == str(judged.validation)
