"""Links, paths and commands in README.md and `docs/` exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from subprocess import check_output
from typing import Any

import pytest
import typer

from deploy.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`|^(?: {4}|\$ )?(ecolink .+|make .+)$", re.MULTILINE)
PATH = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+/?")
PAGE_PATH = r"\bdocs/[a-z/-]+[a-z0-9-]*\.md"
TARGET = re.compile(r"^make ([a-z-]+)")


def test_pages_are_found() -> None:
    assert len(PAGES) > 20


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name}: no such file: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{name}: no such heading: {target}"


@pytest.mark.parametrize(
    "name",
    [
        "docs/contribute/development.md",
        "docs/understand/architecture.md",
        "docs/understand/services.md",
    ],
)
def test_named_paths_exist(name: str) -> None:
    for path in code_of(ROOT / name):
        if PATH.fullmatch(path):
            assert (ROOT / path).exists(), f"{name}: no such path: {path}"


def test_pages_that_files_name_exist() -> None:
    tracked = check_output(["git", "grep", "-hoE", PAGE_PATH], cwd=ROOT, text=True)
    missing = sorted({name for name in tracked.split() if not (ROOT / name).exists()})
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_make_targets_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for found in filter(None, map(TARGET.match, code_of(ROOT / name))):
        bench = found[1].removeprefix("bench-")
        if bench == found[1]:
            assert re.search(rf"^{found[1]}:", makefile, re.MULTILINE), f"{name}: {found[0]}"
        elif bench:
            module = bench.replace("-", "_")
            assert (ROOT / "tests/bench" / f"{module}.py").exists(), f"{name}: {found[0]}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_their_options_exist(name: str) -> None:
    for line in code_of(ROOT / name):
        if line.startswith("ecolink "):
            check_command(line.partition(" #")[0].split()[1:], f"{name}: {line}")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def code_of(page: Path) -> Iterator[str]:
    """Text between backticks, and lines of code blocks that call `ecolink` or `make`."""
    for inline, block in CODE.findall(page.read_text()):
        yield inline or block


@cache
def root() -> Any:
    """The `ecolink` command."""
    return typer.main.get_command(main)


def check_command(words: list[str], where: str) -> None:
    """Assert that the command line has a command, and the options that follow it."""
    command = root()
    while words and hasattr(command, "commands") and re.fullmatch("[a-z][a-z-]*", words[0]):
        assert words[0] in command.commands, where
        command = command.commands[words.pop(0)]
    known = {name for each in command.params for name in [*each.opts, *each.secondary_opts]}
    options = {word.partition("=")[0] for word in words if re.match("--[a-z]", word)}
    assert options <= known | {"--help"}, where
