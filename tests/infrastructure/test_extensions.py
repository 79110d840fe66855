"""Extensions are found in their folder, and ECOLINK_EXTENSIONS selects among them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.database_roles import ROLES
from deploy.processes import PLACES, PROCESSES, metrics_place
from infrastructure import extensions
from infrastructure.extensions import (
    SELECTION,
    Extension,
    InvalidSetting,
    Table,
    check_settings,
    environment,
    installed,
    selected,
    unknown_variables,
)
from infrastructure.process.role import Role, enter, settings_of
from infrastructure.rights import CHANGE, READ, Access
from infrastructure.settings import Settings


@pytest.fixture(autouse=True)
def unread() -> Iterator[None]:
    selected.cache_clear()
    yield
    selected.cache_clear()


@pytest.mark.parametrize("count", range(len(installed()) + 1))
def test_the_variable_selects_extensions(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    wanted = installed()[:count]
    monkeypatch.setenv(SELECTION, " , ".join(each.name for each in wanted))
    assert selected() == wanted


def test_without_the_variable_all_are_selected() -> None:
    assert selected() == installed()


def test_an_unknown_extension_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SELECTION, "nothing")
    with pytest.raises(ValueError, match="'nothing', which is not installed"):
        selected()


def test_child_processes_get_the_settings_of_selected_extensions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {f"ECOLINK_{name}".upper() for one in installed() for name in one.own_settings}
    for name in names:
        monkeypatch.setenv(name, "1")
    assert environment().keys() == names
    monkeypatch.setenv(SELECTION, "")
    selected.cache_clear()
    assert environment() == {}


class Mail(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ECOLINK_")
    mail_port: int = 25
    mail_password: str = ""
    mail_routes: dict[str, str] = {}


def test_only_the_named_roles_get_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Extension(
        package="extensions.mail",
        summary="Mail.",
        settings=Mail,
        secrets={"mail_password": ("outbox",)},
    )
    monkeypatch.setattr(extensions, "selected", lambda: (one,))
    monkeypatch.setenv("ECOLINK_MAIL_PORT", "587")
    monkeypatch.setenv("ECOLINK_MAIL_PASSWORD", "secret")
    both = {"ECOLINK_MAIL_PORT": "587", "ECOLINK_MAIL_PASSWORD": "secret"}
    assert environment() == environment("outbox") == both
    assert environment("gateway") == {"ECOLINK_MAIL_PORT": "587"}


def test_settings_are_those_of_the_role_of_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOLINK_MAIL_PORT", "587")
    assert settings_of(Mail).mail_port == 587
    of_role = copy_context()
    of_role.run(enter, Role("outbox", {"ECOLINK_MAIL_PORT": "465"}))
    assert of_role.run(settings_of, Mail).mail_port == 465


@pytest.mark.parametrize(
    ("name", "value"), [("MAIL_PORT", "many"), ("MAIL_ROUTES", "not JSON"), ("MAIL_PORT", "")]
)
def test_an_invalid_setting_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    one = Extension(package="extensions.mail", summary="Mail.", settings=Mail)
    monkeypatch.setattr(extensions, "selected", lambda: (one,))
    monkeypatch.setenv("ECOLINK_MAIL_PASSWORD", "secret")
    check_settings(Settings())
    monkeypatch.setenv(f"ECOLINK_{name}", value)
    with pytest.raises(InvalidSetting, match=f"(?i){name}") as raised:
        check_settings(Settings())
    assert "secret" not in str(raised.value)


def test_an_unknown_variable_is_named_with_the_nearest_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [each for each in os.environ if each.startswith("ECOLINK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ECOLINK_HOME", "/srv")
    monkeypatch.setenv("ecolink_log_level", "DEBUG")
    assert unknown_variables() == []
    monkeypatch.setenv("ECOLINK_DATABSE_URL", "postgresql://a:secret@b/c")
    monkeypatch.setenv("ECOLINK_XYZ", "1")
    assert unknown_variables() == [
        "ECOLINK_DATABSE_URL is not a setting, and has no effect. Did you mean "
        "ECOLINK_DATABASE_URL?",
        "ECOLINK_XYZ is not a setting, and has no effect. Unset it.",
    ]


@pytest.mark.parametrize("roles", [["datasets"], ["relay"], ["gateway", "datasets"]])
def test_the_port_of_a_shared_process_does_not_depend_on_its_roles(roles: list[str]) -> None:
    assert metrics_place("outbound", roles) == 6
    assert metrics_place("another", roles) == min(PLACES[each] for each in roles)


def test_no_two_processes_have_the_same_place_of_metrics() -> None:
    assert len(set(PLACES.values())) == len(PLACES)
    assert PLACES.keys() >= PROCESSES.keys()


def test_every_reference_names_an_attribute() -> None:
    for extension in installed():
        forms = extension.job_forms.values()
        for reference in (
            *(*extension.api, *extension.pages, *extension.commands.values()),
            *(*extension.operator_commands, *extension.projections),
            *(*extension.billing_handlers, *extension.billing_work),
            *(*extension.signed_documents.values(), *extension.payment_providers.values()),
            *(*extension.charge_names, *extension.dataset_users, *extension.endings),
            *extension.artifacts.values(),
            *(each.run for each in extension.processes.values()),
            *(each.data for each in extension.panels.values() if each.data),
            *(each for form in forms for each in (form.page, form.command)),
        ):
            assert extension.load(reference) is not None, reference
        for panel in extension.panels.values():
            name, _, file = panel.template.partition("/")
            assert name == extension.name
            assert (extension.templates / file).exists()


def test_roles_and_places_exist() -> None:
    """A misspelled name would have no effect."""
    templates = Path(__file__).parents[2].glob("gateway/*/templates/**/*.html")
    pages = "".join(each.read_text() for each in templates)
    for extension in installed():
        assert {*extension.rights, *extension.events} <= {*ROLES, "operator"}
        for place in extension.panels:
            assert f'panels("{place}")' in pages


def test_without_a_selection_only_declarations_are_loaded() -> None:
    parts = ("api", "pages", "cli", "service", "app")
    program = (
        "import deploy.cli, deploy.schema, gateway.app, sys\n"
        "from infrastructure.settings import Settings\n"
        "gateway.app.create_app(Settings())\n"
        "used = [name for name in sys.modules if name.startswith('extensions.')]\n"
        f"assert not [name for name in used if name.rpartition('.')[2] in {parts}], used"
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
