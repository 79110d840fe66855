"""Exports as a model's owner, another account and the exporter."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from domain.access.rights import KeyRequest
from domain.access.scope import Scope
from domain.core.aggregate import because
from domain.jobs.job import Job
from extensions.exports.domain.export import Export, ExportFormat
from extensions.exports.domain.hub_push import HubPush
from extensions.exports.tables import set_export_progress, set_outcome
from infrastructure.postgres.store import connect
from tests.builders.platform import Platform
from tests.extensions.exports.exporting import complete_export, find_export
from tests.gateway.models.conftest import Deployer, text
from tests.gateway.web.signed_in import signed_in
from tests.gateway.web.test_needed_rights import require_marks

CONFIG = {"architectures": ["LlamaForCausalLM"], "rope_theta": 10_000.0}
TOKENIZER = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel"}}


class Exporter(Deployer):
    """A person with a model, whose base model is stored, and the exporter."""

    def store_base(self, config: dict[str, object] = CONFIG) -> None:
        ref = self.platform.log.load(Job, self.job_id).plan.base_ref
        self.platform.artifacts.put(f"{ref}/config.json", json.dumps(config).encode())
        self.platform.artifacts.put(f"{ref}/tokenizer.json", json.dumps(TOKENIZER).encode())

    @property
    def exports(self) -> str:
        return f"/api/models/{self.model}/exports"

    def request(self, format: str = "safetensors"):
        return self.client.post(self.exports, json={"format": format}, headers=self.person.headers)

    def complete(self, folder: Path, format: ExportFormat = ExportFormat.SAFETENSORS) -> None:
        complete_export(self.platform, self.job_id, format, folder)
        self.platform.project()

    def find(self, format: ExportFormat = ExportFormat.SAFETENSORS) -> Export:
        return find_export(self.platform, self.job_id, format)


@pytest.fixture
def owner(client, platform: Platform) -> Exporter:  # type: ignore[no-untyped-def]
    return Exporter(client, platform)


def test_an_export_is_requested_followed_and_downloaded(owner: Exporter, tmp_path: Path) -> None:
    first, second = owner.request().json(), owner.request().json()
    assert (first["status"], first["progress"], first["model"]) == ("pending", None, owner.model)
    assert second == first
    with connect(owner.platform.settings) as connection:
        set_export_progress(connection, owner.find().id, 1, 4)
    assert owner.get(f"/models/{owner.model}/exports/safetensors").json()["progress"] == 0.25
    waiting = owner.get(f"/models/{owner.model}/exports/safetensors/files")
    assert (waiting.status_code, waiting.json()["error"]["code"]) == (409, "wrong_state")
    owner.complete(tmp_path)
    (ready,) = owner.get(f"/models/{owner.model}/exports").json()["data"]
    assert (ready["status"], ready["total_bytes"]) == ("ready", 7)
    path = f"/models/{owner.model}/exports/safetensors"
    listed = owner.get(f"{path}/files").json()["data"]
    assert [each["path"] for each in listed] == ["model.safetensors", "manifest.json"]
    assert listed[1]["sha256"] == ready["manifest_sha256"]
    part = owner.client.get(
        f"/api{path}/files/model.safetensors", headers=owner.person.headers | {"range": "bytes=2-"}
    )
    assert (part.status_code, part.content) == (206, b"ights")
    assert owner.get(f"{path}/archive").status_code == 200
    assert owner.get(f"{path}/files/none").status_code == 404


def test_an_export_is_deleted(owner: Exporter, tmp_path: Path) -> None:
    owner.request()
    owner.complete(tmp_path)
    deleted = owner.client.delete(f"{owner.exports}/safetensors", headers=owner.person.headers)
    assert deleted.status_code == 204
    assert owner.get(f"/models/{owner.model}/exports").json()["data"] == []
    again = owner.client.delete(f"{owner.exports}/safetensors", headers=owner.person.headers)
    assert again.status_code == 404
    assert owner.request().json()["status"] == "pending"


def test_other_accounts_see_no_export(owner: Exporter) -> None:
    owner.request()
    other = owner.platform.person()
    for path in ("", "/safetensors", "/safetensors/files", "/safetensors/archive"):
        assert owner.get(f"/models/{owner.model}/exports{path}", other).status_code == 404


@pytest.mark.full
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        (CONFIG | {"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
    ],
)
def test_an_architecture_without_gguf_is_refused_before_anything_is_stored(
    owner: Exporter, config: dict[str, object], reason: str
) -> None:
    owner.store_base(config)
    refused = owner.request("gguf-q8_0")
    assert refused.status_code == 422
    error = refused.json()["error"]
    assert reason in error["message"]
    assert "ExportRequested" not in owner.platform.topics()
    assert owner.request("safetensors").status_code == 200


def test_a_known_architecture_is_exported_as_gguf(owner: Exporter) -> None:
    owner.store_base()
    assert owner.request("gguf-f16").json()["format"] == "gguf-f16"


def test_an_account_has_a_quota_of_exports(
    owner: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.store_base()
    quotas = owner.client.app.state.backend.quotas  # type: ignore[attr-defined]
    monkeypatch.setitem(quotas.limits._values, "exports", 1)
    assert owner.request().status_code == 200
    assert owner.request().status_code == 200  # the existing export
    assert owner.request("gguf-f16").json()["error"]["code"] == "quota_exceeded"


def test_concurrent_requests_do_not_exceed_the_quota_of_exports(
    owner: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.store_base()
    quotas = owner.client.app.state.backend.quotas  # type: ignore[attr-defined]
    monkeypatch.setitem(quotas.limits._values, "exports", 1)
    with ThreadPoolExecutor(len(ExportFormat)) as threads:
        answers = list(threads.map(owner.request, ExportFormat))
    codes = sorted(each.status_code for each in answers)
    assert codes == [200, *[429] * (len(ExportFormat) - 1)]


def test_the_page_shows_progress_failures_and_downloads(owner: Exporter, tmp_path: Path) -> None:
    owner.platform.project()
    browser = signed_in(owner.client, owner.person)
    page = f"/models/{owner.model}/exports/safetensors"

    def give(path: str) -> str:
        return text(browser.client.post(path, headers=browser.htmx).text)

    shown = give(page)
    assert 'data-export="safetensors" data-status="pending"' in shown
    assert "exporting" in shown
    with because(owner.platform.cause):
        export = owner.find()
        export.fail("no_space", "The disk is full.")
        owner.platform.log.commit(export)
    owner.platform.project()
    shown = text(browser.client.get("/models/list").text)
    assert 'data-failure="no_space"' in shown
    assert "Export again" in shown
    give(page)
    owner.complete(tmp_path)
    shown = text(browser.client.get("/models/list").text)
    assert f"/api/models/{owner.model.replace(':', '%3A')}/exports/safetensors/archive" in shown
    assert "data-export" not in give(f"{page}/delete")


PUSH = {"repository": "acme/support-bot", "token": "hf_secret"}


@pytest.fixture
def pusher(owner: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exporter:
    """A person with a ready export, on a platform with a hub."""
    settings = owner.client.app.state.backend.settings  # type: ignore[attr-defined]
    monkeypatch.setattr(settings, "hub_endpoint", "https://hub.example.com")
    owner.request()
    (tmp_path / "files").mkdir()
    owner.complete(tmp_path / "files")
    return owner


def push(pusher: Exporter, **changes: object):
    path = f"{pusher.exports}/safetensors/pushes"
    headers = pusher.person.headers | {"idempotency-key": "once"}
    return pusher.client.post(path, json=PUSH | changes, headers=headers)


def test_an_export_is_pushed_once_and_the_token_is_in_no_response(pusher: Exporter) -> None:
    first = push(pusher)
    assert first.status_code == 202
    answer = first.json()
    assert (answer["repository"], answer["private"]) == ("acme/support-bot", True)
    assert answer["provenance"] is True
    assert (answer["status"], answer["progress"]) == ("pending", 0)
    assert push(pusher).json() == answer
    listed = pusher.get(f"/models/{pusher.model}/pushes")
    assert listed.json()["data"] == [answer]
    assert "hf_secret" not in first.text + listed.text
    assert pusher.get(f"/models/{pusher.model}/pushes", pusher.platform.person()).status_code == 404


def test_a_push_needs_the_scopes_of_a_download_too(
    pusher: Exporter, subtests: pytest.Subtests
) -> None:
    account = pusher.person.account_id
    for scopes in ((Scope.DEPLOY,), (Scope.READ,), (Scope.DEPLOY, Scope.READ)):
        missing = {Scope.DEPLOY, Scope.READ}.difference(scopes)
        with subtests.test(" ".join(scopes)):
            pusher.person = pusher.platform.key(account, KeyRequest(scopes=scopes))
            answer = push(pusher)
            assert answer.status_code == (403 if missing else 202)
            if missing:
                error = answer.json()["error"]
                assert error["code"] == "missing_scope"
                assert [error["figures"]["needed_scope"]] == [*missing]
                assert "--scope deploy --scope read" in error["message"]
                with connect(pusher.platform.settings) as connection:
                    assert connection.execute("SELECT FROM hub_targets").fetchall() == []


def test_a_malformed_push_stores_nothing(pusher: Exporter, subtests: pytest.Subtests) -> None:
    repositories, tokens = ("no-owner", "../../etc"), ("", "x" * 301)
    for change in (*({"repository": r} for r in repositories), *({"token": t} for t in tokens)):
        with subtests.test(str(change)):
            assert push(pusher, **change).status_code == 422
            with connect(pusher.platform.settings) as connection:
                assert connection.execute("SELECT FROM hub_targets").fetchall() == []


def test_pushes_need_a_hub_and_a_ready_export(
    pusher: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{pusher.exports}/gguf-f16/pushes"
    assert pusher.client.post(path, json=PUSH, headers=pusher.person.headers).status_code == 404
    settings = pusher.client.app.state.backend.settings  # type: ignore[attr-defined]
    monkeypatch.setattr(settings, "hub_endpoint", None)
    refused = push(pusher)
    assert refused.status_code == 409
    assert "ECOLINK_HUB_ENDPOINT" in refused.json()["error"]["message"]


def test_an_idempotency_key_is_for_one_target(pusher: Exporter, subtests: pytest.Subtests) -> None:
    answer = push(pusher).json()
    for change in ({"repository": "acme/other"}, {"private": False}, {"provenance": False}):
        with subtests.test(str(change)):
            reused = push(pusher, **change)
            assert reused.status_code == 409
            assert reused.json()["error"]["code"] == "idempotency_key_reused"
            assert pusher.get(f"/models/{pusher.model}/pushes").json()["data"] == [answer]


def test_an_idempotency_key_is_for_one_export(pusher: Exporter) -> None:
    push(pusher)
    path = f"{pusher.exports}/gguf-f16/pushes"
    headers = pusher.person.headers | {"idempotency-key": "once"}
    reused = pusher.client.post(path, json=PUSH, headers=headers)
    assert (reused.status_code, reused.json()["error"]["code"]) == (409, "idempotency_key_reused")


def test_a_repeated_push_needs_no_export(pusher: Exporter) -> None:
    answer = push(pusher).json()
    pusher.client.delete(f"{pusher.exports}/safetensors", headers=pusher.person.headers)
    assert push(pusher).json() == answer


def test_the_page_pushes_an_export(pusher: Exporter) -> None:
    browser = signed_in(pusher.client, pusher.person)
    require_marks(browser.client, "/models")
    shown = browser.client.get("/models/list").text
    assert 'data-needs="deploy download"' in shown
    assert f"/models/{pusher.model.replace(':', '%3A')}/exports/safetensors/push" in shown
    path = f"/models/{pusher.model}/exports/safetensors/push"
    form = PUSH | {"private": ["false", "true"], "provenance": "false"}
    given = browser.client.post(path, data=form, headers=browser.htmx)
    assert given.status_code == 200
    assert 'data-push="pending"' in text(given.text)
    assert "Push to hub…" not in given.text
    assert "data-last-error" not in given.text
    assert "hf_secret" not in given.text
    (answer,) = pusher.get(f"/models/{pusher.model}/pushes").json()["data"]
    with connect(pusher.platform.settings) as connection:
        set_outcome(connection, UUID(answer["id"]), message="The hub did not respond.")
    (retried,) = pusher.get(f"/models/{pusher.model}/pushes").json()["data"]
    assert (retried["status"], retried["failure"]) == ("pending", None)
    assert retried["last_error"] == "The hub did not respond."
    shown = text(browser.client.get("/models/list").text)
    assert "The last attempt failed: The hub did not respond. EcoLink tries again." in shown
    stop = f"/models/{pusher.model}/pushes/{answer['id']}/stop"
    assert f'hx-post="{stop.replace(":", "%3A")}"' in shown
    shown = browser.client.post(stop, headers=browser.htmx).text
    assert 'data-push="stopped"' in shown
    assert "Push to hub…" in shown
    assert (answer["private"], answer["provenance"]) == (True, False)


def test_a_pending_push_is_stopped_once(pusher: Exporter) -> None:
    pushed = push(pusher).json()
    path = f"/models/{pusher.model}/pushes/{pushed['id']}/stop"
    assert pusher.post(path, pusher.platform.person()).status_code == 404
    assert pusher.post(path.replace(pushed["id"], str(UUID(int=1)))).status_code == 404
    stopped = pusher.post(path).json()
    assert (stopped["status"], stopped["failure"], stopped["url"]) == ("stopped", None, None)
    assert stopped["ended_at"] is not None
    assert pusher.post(path).json() == stopped
    assert pusher.platform.topics().count("PushStopped") == 1


def test_an_ended_push_cannot_be_stopped(pusher: Exporter) -> None:
    pushed = push(pusher).json()
    with because(pusher.platform.cause):
        found = pusher.platform.log.load(HubPush, UUID(pushed["id"]))
        found.fail("unauthorized")
        pusher.platform.log.commit(found)
    pusher.platform.project()
    refused = pusher.post(f"/models/{pusher.model}/pushes/{pushed['id']}/stop")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_state")
    assert "The push is failed" in refused.json()["error"]["message"]
