"""The core works without the folder of any extension."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from infrastructure.extensions import installed
from tests.upgrade.releases import NoHistory, working_copy

IMPORT = """
from importlib import import_module
import deploy.cli
from deploy.processes import PROCESSES
for target in PROCESSES.values():
    import_module(target.partition(":")[0])
"""

TESTS = (
    *("tests/test_layout.py", "tests/infrastructure/test_extensions.py"),
    *("tests/gateway/ops/test_health.py", "tests/gateway/jobs/test_list_page.py"),
    "tests/gateway/jobs/launch/test_drafts.py",
)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [each.name for each in installed()])
def test_the_core_works_without_an_extension(name: str, tmp_path: Path) -> None:
    try:
        tree = working_copy(tmp_path / "tree")
    except NoHistory as lacking:
        pytest.skip(str(lacking))
    for folder in ("extensions", "tests/extensions"):
        shutil.rmtree(tree.tree / folder / name)
    tree.require_own_imports()
    tree.python(IMPORT)
    tree.run("pytest", "-q", "-p", "no:randomly", *TESTS, variables={})
