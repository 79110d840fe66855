"""Datasets from a hub, with the hub's own client and a local hub."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from pyarrow import parquet

from domain.core.errors import WrongState
from domain.datasets.dataset import Dataset
from gateway.datasets import api, uploads
from gateway.datasets.hub_files import NoFiles, files_of_split
from infrastructure.limits import LIMITS
from infrastructure.process.disk_space import DiskLevel, DiskSpace
from tests.builders.platform import Person, Platform
from tests.gateway.http.shared_threads import Blocked, others_are_answered
from tests.gateway.web.signed_in import signed_in
from tests.localhub.server import COMMIT, READ_TOKEN, Hub, Repository, local_hub
from tests.services.datasets import formats
from tests.services.datasets.formats import CORPUS, FORMATS

ROWS = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(6)]


@pytest.fixture
def hub(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with local_hub() as running:
        settings = client.app.state.backend.settings  # type: ignore[attr-defined]
        monkeypatch.setattr(settings, "hub_endpoint", running.url)
        yield running


@pytest.fixture
def chats(hub: Hub) -> Repository:
    """The only dataset of the hub."""
    hub.datasets["acme/chats"] = Repository()
    return hub.datasets["acme/chats"]


@pytest.fixture
def person(platform: Platform) -> Person:
    return platform.person()


def table(rows: list[dict[str, str]]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def lines(rows: list[dict[str, str]]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def ask(client: TestClient, person: Person, **changes: Any) -> Any:
    body = {"repository": "acme/chats"} | changes
    headers = person.headers | {"idempotency-key": "once"}
    return client.post("/api/datasets/from-hub", json=body, headers=headers)


def validated(platform: Platform, answer: Any) -> Dataset:
    assert answer.status_code == 202, answer.text
    platform.validate_upload(answer.json()["id"])
    return platform.log.load(Dataset, answer.json()["id"])


def test_parquet_files_become_one_dataset_with_its_commit(
    client: TestClient, platform: Platform, person: Person, hub: Hub, chats: Repository
) -> None:
    for part in range(2):
        name = f"data/train-0000{part}-of-00002.parquet"
        chats.files[name] = table(ROWS[3 * part : 3 * part + 3])
    chats.files["data/test-00000-of-00001.parquet"] = table(ROWS[:1])
    answer = ask(client, person)
    assert validated(platform, answer).examples == 6
    shown = answer.json()
    assert (shown["name"], shown["hub_commit"]) == ("acme/chats train", COMMIT)
    source = client.get(f"/api/datasets/{shown['id']}/source", headers=person.headers).json()
    assert (source["repository"], source["commit"]) == ("acme/chats", COMMIT)
    assert [each["path"] for each in source["files"]] == sorted(
        path for path in chats.files if "train" in path
    )
    assert source["url"] == f"{hub.url}/datasets/acme/chats/tree/{COMMIT}"
    assert not any("test" in path for path in hub.requested)
    other = platform.person()
    path = f"/api/datasets/{shown['id']}/source"
    assert client.get(path, headers=other.headers).status_code == 404
    states = b"".join(
        each.state for each in platform.log.recorder.select_notifications(start=1, limit=1000)
    )
    assert b"acme/chats" not in states


@pytest.mark.full
@pytest.mark.parametrize("packed", [False, True], ids=["jsonl", "gzip"])
def test_jsonl_files_are_joined(
    packed: bool, client: TestClient, platform: Platform, person: Person, chats: Repository
) -> None:
    for part in range(2):
        content = lines(ROWS[3 * part : 3 * part + 3])
        ending = ".gz" if packed else ""
        chats.files[f"train/{part}.jsonl{ending}"] = (
            gzip.compress(content + b"\n", mtime=0) if packed else content
        )
    assert validated(platform, ask(client, person)).examples == 6


HUB_FILES = {
    "Parquet in two files": {
        "data/train-00000-of-00002.parquet": formats.parquet(CORPUS[:2]),
        "data/train-00001-of-00002.parquet": formats.parquet(CORPUS[2:]),
    },
    "Parquet of ShareGPT": {"train.parquet": FORMATS["Parquet of ShareGPT"](CORPUS)},
    "JSONL in two gzip files": {
        f"train/{part}.jsonl.gz": gzip.compress(formats.jsonl(chats), mtime=0)
        for part, chats in enumerate((CORPUS[:3], CORPUS[3:]))
    },
    "JSON array": {"train.json": FORMATS["JSON array"](CORPUS)},
    "CSV": {"train.csv": FORMATS["CSV"](CORPUS)},
}


@pytest.mark.full
@pytest.mark.parametrize("name", HUB_FILES)
def test_the_corpus_of_all_formats_has_the_same_hash_from_a_hub(
    name: str, client: TestClient, platform: Platform, person: Person, chats: Repository
) -> None:
    expected, _, _ = formats.validated_file(formats.jsonl(CORPUS))
    chats.files |= HUB_FILES[name]
    dataset = validated(platform, ask(client, person))
    assert (dataset.sha256, dataset.examples) == (expected.sha256, len(CORPUS))


def test_a_repeated_request_returns_the_same_dataset_without_the_hub(
    client: TestClient, person: Person, hub: Hub, chats: Repository
) -> None:
    chats.files["train.jsonl"] = lines(ROWS)
    columns = {"user": "question", "assistant": "answer"}
    first = ask(client, person, revision="main", columns=columns)
    hub.failures = [500] * 10
    again = ask(client, person, revision="main", columns=columns)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    for other in ({"split": "test"}, {"revision": None}, {"columns": None}):
        wanted = {"revision": "main", "columns": columns} | other
        assert ask(client, person, **wanted).status_code == 409
    assert len(hub.failures) == 10
    path = f"/api/datasets/{first.json()['id']}"
    assert client.get(f"{path}/source", headers=person.headers).json()["revision"] == "main"
    assert client.delete(path, headers=person.headers).is_success
    assert ask(client, person, revision="main", columns=columns).status_code == 409


@pytest.mark.full
@pytest.mark.parametrize("stored", [0, 1, 2])
def test_a_failed_request_leaves_no_files(
    stored: int,
    client: TestClient,
    platform: Platform,
    person: Person,
    chats: Repository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Storing fails after so many documents, or the account is suspended."""
    chats.files["train.jsonl"] = lines(ROWS)
    artifacts = client.app.state.backend.artifacts  # type: ignore[attr-defined]
    put, refs = artifacts.put, []

    def limited(ref: str, content: bytes) -> None:
        if len(refs) == stored:
            raise OSError("full")
        put(ref, content)
        refs.append(ref)

    def suspended(*given: Any, **named: Any) -> None:
        raise WrongState("suspended")

    monkeypatch.setattr(artifacts, "put", limited)
    ecolink = client.app.state.backend.ecolink  # type: ignore[attr-defined]
    monkeypatch.setattr(type(ecolink), "upload_dataset", suspended)
    columns = {"user": "question", "assistant": "answer"}
    client_of_errors = TestClient(client.app, raise_server_exceptions=False)
    assert ask(client_of_errors, person, columns=columns).is_error
    assert len(refs) == stored
    assert not any(platform.artifacts.exists(ref) for ref in refs)
    assert platform.artifacts.list(f"uploads/{person.account_id}") == []


def test_a_private_repository_needs_a_token_which_is_not_stored(
    client: TestClient, platform: Platform, person: Person, chats: Repository
) -> None:
    chats.files["train.jsonl"], chats.private = lines(ROWS), True
    refused = ask(client, person)
    assert (refused.status_code, refused.json()["error"]["field"]) == (
        422,
        "repository",
    )
    given = ask(client, person, token=READ_TOKEN)
    assert given.status_code == 202
    assert READ_TOKEN not in given.text
    source = client.get(f"/api/datasets/{given.json()['id']}/source", headers=person.headers)
    assert READ_TOKEN not in source.text


@pytest.mark.full
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"repository": "acme/none"}, "repository"),
        ({"repository": "https://evil.example"}, "repository"),
        ({"split": "validation"}, "split"),
        ({"config": "german"}, "config"),
    ],
)
def test_what_the_hub_lacks_is_named(
    change: dict[str, str], field: str, client: TestClient, person: Person, chats: Repository
) -> None:
    chats.files["train.jsonl"] = lines(ROWS)
    refused = ask(client, person, **change)
    assert refused.status_code == 422
    assert field in refused.text
    assert client.get("/api/datasets", headers=person.headers).json()["data"] == []


def test_a_split_beyond_the_limit_is_not_downloaded(
    client: TestClient, person: Person, hub: Hub, chats: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = client.app.state.backend.settings  # type: ignore[attr-defined]
    monkeypatch.setattr(settings, "dataset_max_bytes", 10)
    chats.files["train.jsonl"] = lines(ROWS)
    refused = ask(client, person)
    assert refused.status_code == 422
    assert not any("resolve" in path for path in hub.requested)


def test_slow_imports_delay_no_other_request(
    client: TestClient, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked, body = Blocked(), {"repository": "acme/chats"}
    monkeypatch.setattr(api, "import_from_hub", blocked)
    request = ("POST", "/api/datasets/from-hub")
    assert others_are_answered(client, blocked, person.headers, *request, json=body)


@pytest.mark.usefixtures("hub")
def test_imports_at_the_same_time_are_limited(client: TestClient, person: Person) -> None:
    slots = client.app.state.backend.quotas.slots  # type: ignore[attr-defined]
    with ExitStack() as held:
        for _ in range(LIMITS["hub_imports"].default):
            held.enter_context(slots.hold("hub_imports", None))
        assert ask(client, person).status_code == 429


def test_an_import_needs_disk_space_for_the_files_and_a_copy(
    client: TestClient, person: Person, hub: Hub, chats: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats.files["train.jsonl"] = lines(ROWS)
    settings = client.app.state.backend.settings  # type: ignore[attr-defined]
    free = shutil.disk_usage(settings.home).free
    monkeypatch.setattr(settings, "disk_critical_bytes", 10**18)
    monkeypatch.setattr(uploads, "disk_space", lambda _: DiskSpace(free, free, DiskLevel.OK))
    refused = ask(client, person)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_disk_space")
    assert not any("resolve" in path for path in hub.requested)


@pytest.mark.usefixtures("chats")
def test_an_import_is_refused_while_the_disk_is_nearly_full(
    client: TestClient, person: Person, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = client.app.state.backend.settings  # type: ignore[attr-defined]
    monkeypatch.setattr(settings, "disk_critical_bytes", 10**18)
    assert ask(client, person).json()["error"]["code"] == "no_disk_space"
    assert hub.requested == []


def test_a_hub_that_fails_stores_nothing(
    client: TestClient, platform: Platform, person: Person, hub: Hub
) -> None:
    hub.failures = [500] * 10
    assert ask(client, person).status_code == 503
    assert platform.artifacts.list(f"uploads/{person.account_id}") == []


def test_the_page_downloads_a_split_and_shows_its_source(
    client: TestClient, platform: Platform, person: Person, chats: Repository
) -> None:
    chats.files["train.jsonl"] = lines(ROWS)
    browser = signed_in(client, person)
    assert 'hx-post="/datasets/from-hub"' in browser.client.get("/datasets").text
    form = {
        "repository": "acme/chats",
        "split": "train",
        "name": "chats",
        "keep_duplicates": "true",
    }
    form |= dict.fromkeys(("config", "revision", "token"), "")
    given = browser.client.post("/datasets/from-hub", data=form, headers=browser.htmx)
    path = given.headers["hx-redirect"]
    shown = browser.client.get(path).text
    answer = client.get(f"/api{path}", headers=person.headers).json()
    assert answer["name"] == "chats"
    assert platform.log.load(Dataset, UUID(answer["id"])).options.keep_duplicates
    assert "data-source" in shown
    assert "acme/chats" in shown
    assert COMMIT[:12] in shown


def test_without_a_hub_the_request_is_refused(client: TestClient, person: Person) -> None:
    refused = ask(client, person)
    assert refused.status_code == 409
    assert "ECOLINK_HUB_ENDPOINT" in refused.json()["error"]["message"]


CONFIGS = [
    {
        "config_name": "english",
        "data_files": [
            {"split": "train", "path": "en/train-*.parquet"},
            {"split": "test", "path": ["en/test.parquet"]},
        ],
    },
    {"config_name": "german", "data_files": "de/**"},
]
PATHS = ["README.md", "en/train-0.parquet", "en/train-1.parquet", "en/test.parquet", "de/a/b.jsonl"]


@pytest.mark.parametrize(
    ("configs", "config", "split", "expected"),
    [
        (CONFIGS, "english", "train", ["en/train-0.parquet", "en/train-1.parquet"]),
        (CONFIGS, "english", "test", ["en/test.parquet"]),
        (CONFIGS, "german", "train", ["de/a/b.jsonl"]),
        ([CONFIGS[1]], None, "train", ["de/a/b.jsonl"]),
        ([CONFIGS[0], CONFIGS[1] | {"default": True}], None, "train", ["de/a/b.jsonl"]),
        (None, "en", "train", ["en/train-0.parquet", "en/train-1.parquet"]),
        (None, None, "test", ["en/test.parquet"]),
    ],
)
def test_the_files_of_a_split(
    configs: Any, config: str | None, split: str, expected: list[str]
) -> None:
    assert files_of_split(PATHS, configs, config, split) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("./a/x.jsonl", ["a/x.jsonl"]),
        ("*.jsonl", ["x.jsonl"]),
        ("*/x.jsonl", ["a/x.jsonl"]),
        ("**/x.jsonl", ["a/b/x.jsonl", "a/x.jsonl", "x.jsonl"]),
        ("a/**", ["a/b/x.jsonl", "a/b/y-1.jsonl", "a/x.jsonl"]),
        ("a**/x.jsonl", ["a/b/x.jsonl", "a/x.jsonl"]),
        ("**b/?-?.jsonl", ["a/b/y-1.jsonl"]),
        ("**/**/b/*-*", ["a/b/y-1.jsonl"]),
        ("a?x.jsonl", []),
        ("a/*", ["a/x.jsonl"]),
        ("x.json", []),
    ],
)
def test_patterns_name_the_files_of_a_split(pattern: str, expected: list[str]) -> None:
    paths = ["x.jsonl", "a/x.jsonl", "a/b/x.jsonl", "a/b/y-1.jsonl"]
    configs = [{"data_files": [{"split": "train", "path": [pattern, "none.jsonl"]}]}]
    try:
        assert files_of_split(paths, configs, None, "train") == expected
    except NoFiles:
        assert expected == []


def test_many_wildcards_take_little_time() -> None:
    """With backtracking, this would take years."""
    path = "a/" * 100 + "x.jsonl"
    configs = [{"data_files": ["**/" * 50 + "y.jsonl", "*a*/" * 100 + "x.jsonl"]}]
    assert files_of_split([path], configs, None, "train") == [path]


LONG = "a/" * 34


@pytest.mark.parametrize(
    ("patterns", "files"),
    [
        pytest.param(["**/" * 333 + "x"] * 1_000, 60, id="many long patterns"),
        pytest.param([f"{LONG}**/*{number}-x" for number in range(1_000)], 4_000, id="many files"),
        pytest.param(["*a" * 1_000_000], 10, id="a very long pattern"),
    ],
)
def test_patterns_that_take_too_long_are_refused(patterns: list[str], files: int) -> None:
    """Without the limit, they would use all CPU time of an import."""
    paths = [f"{LONG}{number}.jsonl" for number in range(files)]
    with pytest.raises(NoFiles, match=rf"{len(patterns):,} .*{files:,} files") as refused:
        files_of_split(paths, [{"data_files": patterns}], None, "train")
    assert refused.value.field == "split"


def test_many_patterns_and_files_are_accepted() -> None:
    paths = [f"data/{number}/train.jsonl" for number in range(300)]
    patterns = [f"data/{number}/**" for number in range(1_500)]
    assert files_of_split(paths, [{"data_files": patterns}], None, "train") == sorted(paths)


@pytest.mark.parametrize(
    ("configs", "config", "split", "field"),
    [
        (CONFIGS, None, "train", "config"),
        (CONFIGS, "french", "train", "config"),
        (CONFIGS, "english", "validation", "split"),
        (None, None, "validation", "split"),
    ],
)
def test_missing_files_name_the_field(
    configs: Any, config: str | None, split: str, field: str
) -> None:
    with pytest.raises(NoFiles) as refused:
        files_of_split(PATHS, configs, config, split)
    assert refused.value.field == field
