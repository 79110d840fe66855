"""Layout: top-level folders are fixed, and packages are imported from this tree."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("domain", "projections", "infrastructure", "services"),
    *("gateway", "extensions", "deploy"),
)


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_the_one_in_this_tree(package: str) -> None:
    module = import_module(package)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT / package / "__init__.py"


def test_every_top_level_folder_is_a_known_one() -> None:
    found = {path.parent.relative_to(ROOT).parts[0] for path in sources(ROOT)}
    assert found == {*PACKAGES, "tests"}


def test_every_folder_of_a_package_is_a_package() -> None:
    for package in PACKAGES:
        for path in sources(ROOT / package):
            assert (path.parent / "__init__.py").exists(), path


def test_only_torch_is_used_through_private_modules() -> None:
    """A release can remove private modules of a dependency. The compiler of torch has no others."""
    private = re.compile(r"^\s*(?:from|import) (?!torch\b)\w+(?:\.\w+)*\._[a-z]", re.MULTILINE)
    found = {
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in sources(ROOT / package)
        if private.search(path.read_text())
    }
    assert found == set()


def sources(folder: Path) -> list[Path]:
    """Python files below the visible folders of a folder."""
    return [
        path
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".") and child.name != "__pycache__"
        for path in child.rglob("*.py")
        if "node_modules" not in path.parts
    ]
