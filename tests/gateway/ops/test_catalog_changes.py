"""The forms that change the catalog, with a preview of who is affected."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.access.scope import Scope
from domain.catalog.base_model import BaseModel
from domain.catalog.catalog import Catalog
from domain.core.aggregate import because
from domain.core.identity import CATALOG_ID, base_model_id
from domain.jobs.choices import Choices
from domain.jobs.job import Job
from domain.jobs.job_request import JobRequest
from domain.training.hyperparameters import Hyperparameters
from domain.training.training_plan import Order
from infrastructure.accounts.profiles import add_account_name
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.jobs.owners import Owner
from tests.gateway.ops.pages import row, shown
from tests.gateway.web.signed_in import Browser, signed_in


class Editor:
    """An operator who previews and confirms changes."""

    def __init__(self, browser: Browser, platform: Platform) -> None:
        self.browser, self.platform = browser, platform

    @property
    def catalog(self) -> Catalog:
        return self.platform.log.load(Catalog, CATALOG_ID)

    def preview(self, kind: str, name: str, **fields: str) -> str:
        """Return the preview of a change. Without a `version`, it is one of the current catalog."""
        form = {"kind": kind, "name": name, "version": str(self.catalog.version)}
        return self._sent("/ops/catalog/preview", form | fields).text

    def confirm(self, preview: str) -> str:
        """Press the button of a preview. Return the new preview, or the page that follows."""
        form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', preview))
        answer = self._sent("/ops/catalog/changes", form)
        return answer.headers.get("hx-redirect") or answer.text

    def _sent(self, path: str, form: dict[str, str]) -> Any:
        return self.browser.client.post(path, data=form, headers=self.browser.htmx)


@pytest.fixture
def editor(operator: Browser, platform: Platform) -> Editor:
    return Editor(operator, platform)


@pytest.fixture
def ada(owner: Owner, platform: Platform, settings: Settings) -> Owner:
    """The owner of a queued job on a CPU."""
    with connect(settings) as connection:
        add_account_name(connection, owner.person.account_id, "ada")
    platform.project()
    return owner


def test_a_price_is_previewed_with_the_affected_jobs_and_then_saved(
    editor: Editor, ada: Owner
) -> None:
    version = editor.catalog.version
    preview = editor.preview("gpu-type", "cpu", price="0.75")
    assert row(preview, 'data-difference="micros_per_hour"').endswith("$0.60 $0.75")
    assert row(preview, 'data-effect="Queued jobs"') == "Queued jobs 1 keep the approved price"
    assert row(preview, f'data-account="{ada.person.account_id}"') == "ada 0 1 0 0"
    assert editor.catalog.version == version
    assert editor.confirm(preview) == f"/ops/catalog?saved={version + 1}"
    assert editor.catalog.gpu_type("cpu").micros_per_hour == 750_000
    page = shown(editor.browser, f"/ops/catalog?saved={version + 1}")
    assert "data-saved" in page
    assert "$0.75" in row(page, 'data-entry="gpu-types cpu"')
    assert editor.platform.log.load(Job, ada.job_id).rate_micros_per_hour == 600_000


def test_jobs_whose_files_are_not_ready_are_affected(editor: Editor, ada: Owner) -> None:
    person = ada.person
    choices = Choices(
        editor.platform.dataset(person, ready=False), BASE_MODEL, "", "cpu", 1, Hyperparameters()
    )
    with because(editor.platform.cause):
        request = JobRequest.ordered(uuid4(), person.account_id, choices, Order())
        editor.platform.log.commit(request)
    editor.platform.project()
    preview = editor.preview("gpu-type", "cpu", price="0.75")
    affected = "Jobs whose files are not ready"
    assert row(preview, f'data-effect="{affected}"').startswith(f"{affected} 1 get the price")
    assert row(preview, f'data-account="{person.account_id}"') == "ada 0 1 0 1"
    other = editor.preview("gpu-type", "l4", price="0.75")
    assert row(other, f'data-effect="{affected}"').startswith(f"{affected} 0")
    preview = editor.preview("capacity", "local", gpu_type="cpu", count="0")
    assert " 1 use other GPUs" in row(preview, f'data-effect="{affected}, on any GPUs"')
    editor.confirm(editor.preview("base", BASE_MODEL, eligible="true"))
    preview = editor.preview("base-withdrawal", BASE_MODEL)
    assert row(preview, f'data-effect="{affected}"') == f"{affected} 1 are refused"


def test_the_event_names_the_key_of_the_operator(editor: Editor) -> None:
    editor.confirm(editor.preview("gpu-type", "l4", price="0.50"))
    *_, last = editor.platform.log.events.get(CATALOG_ID)
    assert isinstance(last, Catalog.GpuTypeOffered)
    assert last.actor == f"key:{editor.browser.person.key_id}"


def test_a_change_after_the_preview_is_a_conflict(editor: Editor) -> None:
    first = editor.preview("gpu-type", "l4", price="0.50")
    assert "data-stale" not in first
    editor.confirm(editor.preview("gpu-type", "l4", price="0.40"))
    again = editor.confirm(first)
    assert "data-stale" in again
    assert row(again, 'data-difference="micros_per_hour"').endswith("$0.40 $0.50")
    assert editor.catalog.gpu_type("l4").micros_per_hour == 400_000
    editor.confirm(again)
    assert editor.catalog.gpu_type("l4").micros_per_hour == 500_000


def test_a_form_that_was_opened_before_another_change_says_so(editor: Editor) -> None:
    opened = str(editor.catalog.version)
    editor.confirm(editor.preview("region", "oslo", title="Oslo"))
    assert "data-stale" in editor.preview("region", "bergen", title="Bergen", version=opened)


def test_a_gpu_type_is_added_and_withdrawn(editor: Editor) -> None:
    fields = {"title": "RTX", "vram_gib": "24", "price": "0.40", "bf16_tflops": "165"}
    rest = {"backing": "nvidia", "max_per_job": "2", "source": "a data sheet"}
    names = {"device_names": "RTX 4090\nRTX 4090 D"}
    assert 'role="alert"' in editor.preview("gpu-type", "rtx", **fields)
    preview = editor.preview("gpu-type", "rtx", **fields, **rest, **names)
    assert row(preview, 'data-difference="vram_gib"').endswith("– 24")
    editor.confirm(preview)
    rtx = editor.catalog.gpu_type("rtx")
    assert (rtx.vram_gib, rtx.device_names) == (24.0, ("RTX 4090", "RTX 4090 D"))
    page = shown(editor.browser, "/ops/catalog/gpu-types/rtx")
    assert "RTX 4090\nRTX 4090 D</textarea>" in page
    editor.confirm(editor.preview("gpu-type-withdrawal", "rtx"))
    assert "rtx" not in editor.catalog.gpu_types


def test_a_form_sent_without_a_change_saves_nothing(editor: Editor) -> None:
    page = shown(editor.browser, "/ops/catalog/gpu-types/h100")
    form = page.partition('id="gpu-type"')[2].partition("</form>")[0]
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
    names = form.partition("<textarea")[2].partition(">")[2].partition("</textarea>")[0]
    sent = {key: value for key, value in fields.items() if key not in ("kind", "name", "version")}
    preview = editor.preview("gpu-type", "h100", device_names=names, **sent)
    assert 'data-empty="differences"' in preview


def test_a_lower_capacity_names_the_jobs_that_it_pauses(editor: Editor, ada: Owner) -> None:
    preview = editor.preview("capacity", "local", gpu_type="cpu", count="0")
    assert row(preview, 'data-difference="capacity"') == "GPUs 2 0"
    assert row(preview, f'data-account="{ada.person.account_id}"') == "ada 0 1 0 0"
    editor.platform.open_pool("cpu", 2)
    ada.train()
    editor.platform.project()
    preview = editor.preview("capacity", "local", gpu_type="cpu", count="0")
    assert row(preview, 'data-effect="Running jobs"').startswith("Running jobs 1 keep their GPUs")
    editor.confirm(preview)
    assert editor.catalog.regions["local"].capacity["cpu"] == 0


def test_an_undeclared_capacity_is_all_gpus_of_the_machine_and_can_become_zero(
    editor: Editor,
) -> None:
    editor.platform.open_pool("h100", 8)
    editor.platform.project()
    page = shown(editor.browser, "/ops/catalog/regions/local")
    assert "h100 (not declared: all GPUs of the machine, now 8)" in page
    assert "l4 (not declared)" in page
    preview = editor.preview("capacity", "local", gpu_type="h100", count="0")
    difference = row(preview, 'data-difference="capacity"')
    assert difference == "GPUs not declared: all GPUs of the machine, now 8 0"
    editor.confirm(preview)
    assert editor.catalog.regions["local"].capacity["h100"] == 0
    assert "h100 (now 0)" in shown(editor.browser, "/ops/catalog/regions/local")


def test_a_region_is_added_renamed_and_withdrawn(editor: Editor) -> None:
    editor.confirm(editor.preview("region", "oslo", title="Oslo"))
    editor.confirm(editor.preview("capacity", "oslo", gpu_type="l4", count="4"))
    preview = editor.preview("region", "oslo", title="Oslo, Norway")
    assert row(preview, 'data-difference="title"') == "Display name Oslo Oslo, Norway"
    editor.confirm(preview)
    assert editor.catalog.region("oslo").capacity == {"l4": 4}
    assert "Oslo, Norway" in shown(editor.browser, "/ops/catalog/regions/oslo")
    preview = editor.preview("region-withdrawal", "oslo")
    assert "pause" in row(preview, 'data-effect="Queued jobs"')
    editor.confirm(preview)
    assert "oslo" not in editor.catalog.regions


def test_a_base_model_is_listed_forbidden_and_withdrawn(editor: Editor, ada: Owner) -> None:
    page = shown(editor.browser, "/ops/catalog")
    assert "not in the catalog, deployment active" in row(page, f'data-entry="bases {BASE_MODEL}"')
    editor.confirm(editor.preview("base", BASE_MODEL, eligible="true"))
    assert editor.catalog.bases[BASE_MODEL].eligible
    preview = editor.preview("base", BASE_MODEL, eligible="false")
    assert row(preview, 'data-difference="eligible"').endswith("allowed not allowed")
    assert row(preview, 'data-effect="Paused jobs"').startswith("Paused jobs 0 cannot resume")
    editor.confirm(preview)
    assert not editor.catalog.bases[BASE_MODEL].eligible
    editor.confirm(editor.preview("base-withdrawal", BASE_MODEL))
    assert BASE_MODEL not in editor.catalog.bases


def test_a_blank_field_clears_its_value_and_an_absent_one_keeps_it(editor: Editor) -> None:
    name = "qwen2.5-0.5b-instruct"
    before = editor.catalog.bases[name]
    assert before.repository
    preview = editor.preview("base", name, eligible="true", repository="")
    assert row(preview, 'data-difference="repository"').endswith(f"{before.repository} –")
    editor.confirm(preview)
    assert editor.catalog.bases[name] == before.model_copy(update={"repository": ""})
    names = editor.catalog.gpu_type("l4").device_names
    editor.confirm(editor.preview("gpu-type", "l4", price="0.50"))
    assert editor.catalog.gpu_type("l4").device_names == names
    editor.confirm(editor.preview("gpu-type", "l4", device_names=""))
    assert editor.catalog.gpu_type("l4").device_names == ()


def test_the_form_of_an_unlisted_base_model_has_its_source(editor: Editor, ada: Owner) -> None:
    page = shown(editor.browser, f"/ops/catalog/bases/{BASE_MODEL}")
    form = dict(re.findall(r'name="(repository|source)" value="([^"]*)"', page))
    editor.confirm(editor.preview("base", BASE_MODEL, eligible="true", **form))
    listed = editor.catalog.bases[BASE_MODEL]
    assert (
        listed.source == editor.platform.log.load(BaseModel, base_model_id(BASE_MODEL)).revision.ref
    )


INVALID: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("gpu-type", "l4", {"price": "-1"}),
    ("gpu-type", "l4", {"price": ""}),
    ("gpu-type", "l4", {"title": ""}),
    ("gpu-type", "l4", {"max_per_job": ""}),
    ("gpu-type", "l4", {"vram_gib": "nan"}),
    ("gpu-type", "l4", {"max_per_job": "many"}),
    ("gpu-type", "l4", {"device_names": "NVIDIA H200"}),
    ("gpu-type-withdrawal", "cpu", {}),
    ("gpu-type-withdrawal", "tpu", {}),
    ("region", "oslo", {}),
    ("region-withdrawal", "moon", {}),
    ("capacity", "local", {"gpu_type": "cpu"}),
    ("capacity", "local", {"gpu_type": "tpu", "count": "1"}),
    ("capacity", "moon", {"gpu_type": "cpu", "count": "1"}),
    ("base", "mine", {}),
    ("base-withdrawal", "moon", {}),
    ("other", "cpu", {}),
)


def test_an_invalid_change_gets_a_notice(editor: Editor) -> None:
    version = editor.catalog.version
    for kind, name, fields in INVALID:
        assert 'role="alert"' in editor.preview(kind, name, **fields), (kind, name, fields)
    assert editor.catalog.version == version


def test_an_unknown_entry_has_no_page(editor: Editor) -> None:
    for path in ("gpu-types/tpu", "regions/moon", "bases/moon"):
        assert editor.browser.client.get(f"/ops/catalog/{path}").status_code == 404
    for path in ("gpu-types", "regions"):
        assert 'name="name" value=""' in shown(editor.browser, f"/ops/catalog/{path}")


def test_only_an_operator_with_the_scope_deploy_changes_the_catalog(
    client: TestClient, platform: Platform
) -> None:
    operator = platform.person(Role.OPERATOR).account_id
    for person in (
        platform.key(operator, KeyRequest(scopes=[Scope.READ])),
        platform.person(Role.AUDITOR),
    ):
        editor = Editor(signed_in(client, person), platform)
        assert 'data-entry="regions local"' in shown(editor.browser, "/ops/catalog")
        assert 'role="alert"' in editor.preview("region", "oslo", title="Oslo")
        form = '<input type="hidden" name="kind" value="region">'
        assert 'role="alert"' in editor.confirm(form)
        client.cookies.clear()
