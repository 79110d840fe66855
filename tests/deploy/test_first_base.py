"""The base model that `ecolink up` imports if none was ever imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.demo import preparing
from deploy.local.errors import StackError
from deploy.local.home import Home
from domain.core.event_log import EventLog
from domain.use_cases.accounts import EcoLink
from domain.use_cases.deployments import Deploying
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from projections import BASE_MODELS
from projections.projection import ProjectionEffect
from tests.builders.commands import command
from tests.builders.examples import revision
from tests.polling import eventually

IMPORTS = """
from deploy.operator.model_import import run_import
from infrastructure.settings import Settings
run_import(Settings(), "owner/name", "tiny")
"""


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The imports of a base model, none of which succeeds."""
    offered: list[Settings] = []

    def refuse(settings: Settings, *_: object) -> None:
        offered.append(settings)
        raise StackError("Cannot import it.")

    monkeypatch.setattr(preparing, "offer_base", refuse)
    return offered


def test_a_base_model_is_offered_until_an_import_is_refused(
    settings: Settings, offered: list[Settings]
) -> None:
    Home.of(settings).prepare()
    for _ in range(3):
        with pytest.raises(StackError):
            preparing.offer_first_base(settings, print)
    assert offered == [settings]


def test_a_base_model_that_the_operator_deleted_is_not_offered_again(
    settings: Settings, log: EventLog, offered: list[Settings]
) -> None:
    with command():
        EcoLink(log).import_base_model("mine", revision())
    with command():
        Deploying(log).delete_base("mine", lambda: [])
    OrderedConsumer(ProjectionEffect(BASE_MODELS, lambda: connect(settings)), log).catch_up()
    preparing.offer_first_base(settings, print)
    assert offered == []


def test_parallel_imports_of_a_base_model_succeed(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    find: Callable[..., Any] = log.find
    rivals = [revision(manifest_sha256="22"), revision(manifest_sha256="33")]

    def find_late(*arguments: object) -> object:
        found = find(*arguments)
        if rivals:
            with command(f"rival {len(rivals)}"), monkeypatch.context() as patch:
                patch.setattr(log, "find", find)
                EcoLink(log).import_base_model("mine", rivals.pop())
        return found

    monkeypatch.setattr(log, "find", find_late)
    with command("import"):
        found = EcoLink(log).import_base_model("mine", revision(manifest_sha256="44"))
    assert (found.manifest_sha256, found.version) == ("44", 3)


def test_an_import_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    package = tmp_path / "services" / "model_import"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    started = tmp_path / "started"
    (package / "__main__.py").write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path)!r}, 'new').write_text(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(started)!r})\n"
        "time.sleep(600)\n"
    )
    program = f"import os\nos.environ['PYTHONPATH'] = {str(tmp_path)!r}\n{IMPORTS}"
    starter = subprocess.Popen([sys.executable, "-P", "-c", program], env=dict(os.environ))
    try:
        eventually(started.exists)
        importer = psutil.Process(int(started.read_text()))
    finally:
        starter.kill()
        starter.wait()
    try:
        eventually(lambda: not importer.is_running())
    finally:
        with suppress(psutil.NoSuchProcess):
            importer.kill()
