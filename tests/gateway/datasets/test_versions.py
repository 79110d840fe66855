"""Versions of datasets: other files, and filters that an extension applies."""

from __future__ import annotations

from uuid import UUID

from domain.datasets.dataset import Dataset
from tests.builders.platform import Platform
from tests.gateway.conftest import ClientOf
from tests.gateway.datasets.conftest import CHAT, SHORT, Pages
from tests.services.datasets.uploads import VALID


def test_a_file_can_be_a_new_version_of_a_dataset(
    pages: Pages, client_of: ClientOf, platform: Platform
) -> None:
    person, client = pages.browser.person, pages.browser.client
    first = pages.upload(CHAT, SHORT)

    def uploaded(parent: UUID) -> tuple[int, str, str]:
        params = {"name": "second", "parent": str(parent)}
        answer = client.post("/api/datasets", params=params, content=VALID, headers=person.headers)
        return answer.status_code, answer.json().get("id"), answer.json().get("parent")

    status, second, parent = uploaded(first)
    assert (status, parent) == (202, str(first))
    file = client_of(person).files.create(
        file=("third.jsonl", VALID),
        purpose="fine-tune",
        extra_body={"parent": f"file-{UUID(second).hex}"},
    )
    third = UUID(file.id.removeprefix("file-"))
    dataset = platform.log.load(Dataset, third)
    assert (dataset.options.parent, dataset.options.filters) == (UUID(second), None)
    html = pages.open(f"/{first}")
    assert [html.count(f'data-version="{each}"') for each in (first, second, third)] == [1, 1, 1]
    answer = client.get(f"/api/datasets/{first}/versions", headers=person.headers)
    assert [each["id"] for each in answer.json()["data"]] == [str(first), second, str(third)]
    assert "data-parent" in pages.open(f"?parent={first}")
    other = platform.upload(platform.person().account_id, VALID)
    assert uploaded(other)[0] == 404
