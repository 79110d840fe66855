"""Packages of extras may be missing. Then the features that need them are left out or refused."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import migrate, run
from infrastructure import extras
from infrastructure.checks import machine
from infrastructure.checks.machine import Level, machine_checks, require_extras
from infrastructure.extensions import (
    SELECTION,
    InvalidSetting,
    check_settings,
    installed,
    selected,
)
from infrastructure.extras import (
    PARQUET,
    TIMESTAMPS,
    TRACING,
    MissingExtra,
    extras_of_features,
    missing,
)
from infrastructure.settings import Settings
from services.datasets.report import Refused
from services.datasets.unpacking import Sizes, unpack

ROOT = Path(__file__).parents[2]

DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

NEEDY = [each.name for each in installed() if each.name in DECLARED]
"""Extensions that need packages."""

VARIABLES = [
    (f"ECOLINK_{name}".upper(), each.name)
    for each in installed()
    if each.name in NEEDY
    for name in sorted(each.own_settings)[:1]
]
"""A variable of each of them that has some."""


@pytest.fixture
def lean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Act as if the packages of no extra were installed."""
    monkeypatch.setattr(extras, "installed_version", lambda _: None)
    selected.cache_clear()
    yield
    selected.cache_clear()


def test_an_extra_combines_those_of_all_features() -> None:
    (requirement,) = DECLARED["all"]
    named = re.fullmatch(r"ecolink\[(.*)\]", requirement)
    assert named is not None
    features = DECLARED.keys() - {"all"}
    assert set(named[1].split(",")) == features
    assert {canonicalize_name(each) for each in features} == set(extras_of_features())


def test_all_packages_are_installed_here() -> None:
    assert not [name for name in extras_of_features() if missing(name)]
    assert missing("no-such-extra") == []


@pytest.mark.usefixtures("lean")
def test_extensions_without_their_packages_are_not_selected() -> None:
    assert {each.name for each in installed()} - {each.name for each in selected()} == set(NEEDY)


@pytest.mark.usefixtures("lean")
@pytest.mark.parametrize("name", NEEDY)
def test_a_selected_extension_needs_its_packages(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SELECTION, name)
    with pytest.raises(MissingExtra, match=rf"pip install 'ecolink\[{name}\]'"):
        selected()


def test_a_package_in_an_excluded_version_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    versions = {"pyarrow": "27.0rc1+local"}
    monkeypatch.setattr(extras, "installed_version", lambda name: versions.get(name, "99"))
    monkeypatch.setattr(machine, "installed_version", extras.installed_version)
    assert missing(PARQUET) == []
    versions["pyarrow"] = "25.9"
    assert missing(PARQUET) == ["pyarrow>=26"]
    found = {each.name: each for each in machine_checks(Settings(home=tmp_path))}
    assert "pyarrow 25.9 is installed, but >=26 is needed" in found["packages"].text
    assert PARQUET in found["extras"].text


@pytest.mark.usefixtures("lean")
@pytest.mark.parametrize("name", NEEDY)
def test_an_extra_has_the_packages_of_its_declaration(name: str) -> None:
    assert missing(name) == sorted(Requirement(each).name for each in DECLARED[name])


@pytest.mark.usefixtures("lean")
@pytest.mark.parametrize(("variable", "extra"), VARIABLES)
def test_a_variable_of_an_extension_needs_its_packages(
    variable: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    check_settings(settings)
    monkeypatch.setenv(variable, "given")
    with pytest.raises(MissingExtra, match=rf"pip install 'ecolink\[{extra}\]'"):
        check_settings(settings)
    (check,) = [each for each in machine_checks(settings) if each.name == "extras"]
    assert check.level is Level.FAILED
    monkeypatch.setenv(SELECTION, "")
    check_settings(settings)


def test_an_unknown_limit_is_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, limits={"nothing": 3})
    with pytest.raises(InvalidSetting, match="unknown limit 'nothing'"):
        check_settings(settings)
    (check,) = [each for each in machine_checks(settings) if each.name == "extras"]
    assert check.level is Level.FAILED


@pytest.mark.usefixtures("lean")
def test_a_setting_that_needs_missing_packages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path)
    require_extras(settings)
    timed = settings.model_copy(update={"timestamp_url": "http://127.0.0.1/"})
    with pytest.raises(MissingExtra, match=r"ecolink\[timestamps\]"):
        require_extras(timed)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    (check,) = [each for each in machine_checks(settings) if each.name == "extras"]
    assert check.level is Level.FAILED
    assert "ecolink[tracing]" in check.text


@pytest.mark.usefixtures("lean")
def test_the_doctor_names_missing_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = [each for each in machine_checks(Settings(home=tmp_path)) if each.name == "extras"]
    assert check.level is Level.WARNING
    named = (*map(canonicalize_name, NEEDY), PARQUET, TIMESTAMPS, TRACING)
    assert all(name in check.text for name in named)
    monkeypatch.setenv(SELECTION, "")
    (check,) = [each for each in machine_checks(Settings(home=tmp_path)) if each.name == "extras"]
    assert not any(canonicalize_name(name) in check.text for name in NEEDY)
    assert PARQUET in check.text


@pytest.mark.usefixtures("lean")
def test_parquet_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b"PAR1")
    with pytest.raises(Refused, match="extra `parquet`"):
        unpack(tmp_path / "upload", tmp_path, Sizes(1024, 1024))


LEAN_PROCESS = """
import sys
from importlib import import_module
from importlib.metadata import packages_distributions

from infrastructure import extras

packages = {
    each.name
    for extra in extras.extras_of_features()
    if extra != extras.SERVER
    for each in extras.packages_of(extra)
}
modules = {name for name, of in packages_distributions().items() if packages.issuperset(of)}
assert modules >= {"apprise", "fpdf", "kubernetes", "pyarrow", "stripe", "torch"}, modules

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in modules:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
extras.installed_version = lambda name: None

import deploy.cli
import deploy.schema
import gateway.app
from deploy.processes import PROCESSES
from infrastructure.settings import Settings

gateway.app.create_app(Settings())
for target in PROCESSES.values():
    module, _, attribute = target.partition(":")
    getattr(import_module(module), attribute)
"""


@pytest.mark.full
def test_everything_else_runs_without_the_packages_of_extras() -> None:
    subprocess.run([sys.executable, "-c", LEAN_PROCESS], check=True)


@pytest.mark.parametrize(
    "program",
    [
        ("-c", "from deploy.command import main; main()", "--help"),
        ("-m", "deploy.run", "gateway"),
        ("-m", "deploy.migrate"),
        ("-m", "deploy.docker.migrate", "database-roles.json"),
        ("-m", "deploy.docker.trainer_host"),
    ],
)
def test_a_program_names_the_problem_of_a_selection(program: tuple[str, ...]) -> None:
    ended = subprocess.run(
        [sys.executable, *program],
        env={SELECTION: "nothing"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: ECOLINK_EXTENSIONS names 'nothing'")
    assert len(io.StringIO(ended.stderr).readlines()) == 1


@pytest.mark.usefixtures("lean")
@pytest.mark.parametrize(
    ("main", "arguments", "variable", "message"),
    [
        (run.main, ("gateway",), "OTEL_EXPORTER_OTLP_ENDPOINT", "pip install 'ecolink[tracing]'"),
        *((migrate.main, (), name, f"pip install 'ecolink[{of}]'") for name, of in VARIABLES),
        (migrate.main, (), "ECOLINK_LIMITS", "unknown limit 'nothing'"),
    ],
)
def test_a_program_names_the_problem_of_a_variable(
    main: Callable[[], None],
    arguments: tuple[str, ...],
    variable: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    monkeypatch.setattr(run, "set_up_logging", lambda *_: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("os.umask", lambda _: 0)
    monkeypatch.setenv(variable, '{"nothing": 3}')
    with pytest.raises(SystemExit, match=re.escape(message)):
        main()
