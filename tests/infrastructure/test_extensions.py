"""Extensions are found in their folder, and ECOLINK_EXTENSIONS selects among them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from infrastructure.extensions import SELECTION, Table, installed
from infrastructure.rights import CHANGE, READ, Access


@pytest.fixture(autouse=True)
def unread() -> Iterator[None]:
    installed.cache_clear()
    yield
    installed.cache_clear()


@pytest.mark.parametrize(
    ("selection", "names"), [("", []), ("job_templates", ["job_templates"]), (" , ", [])]
)
def test_the_variable_selects_extensions(
    monkeypatch: pytest.MonkeyPatch, selection: str, names: list[str]
) -> None:
    monkeypatch.setenv(SELECTION, selection)
    assert [extension.name for extension in installed()] == names


def test_an_unknown_extension_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SELECTION, "job_templates,nothing")
    with pytest.raises(ValueError, match="'nothing', which is not installed"):
        installed()


def test_every_reference_names_an_attribute() -> None:
    for extension in installed():
        forms = extension.job_forms.values()
        for reference in (
            *(*extension.api, *extension.pages, *extension.commands.values()),
            *(each for form in forms for each in (form.page, form.command)),
        ):
            assert extension.load(reference) is not None, reference
        for panel in extension.panels.values():
            assert (extension.templates.parent.parent / panel.replace("/", "/templates/")).exists()


def test_the_core_needs_no_extension() -> None:
    program = (
        "import deploy.cli, deploy.schema, gateway.app, sys\n"
        "from infrastructure.settings import Settings\n"
        "gateway.app.create_app(Settings())\n"
        "found = [name for name in sys.modules if name.startswith('extensions.')]\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={SELECTION: ""})


def test_a_table_has_an_owner_or_a_reason_to_keep_it() -> None:
    for both in ({}, {"owner": "account_id", "kept": "Numbers."}):
        with pytest.raises(ValueError, match="needs an owner"):
            Table(name="a", ddl="", **both)


def test_rights_are_declared_once() -> None:
    access = Access(tables={"a": READ})
    assert access.extended((), {"b": CHANGE}).tables == {"a": READ, "b": CHANGE}
    with pytest.raises(ValueError, match="declared twice"):
        access.extended((), {"a": CHANGE})
