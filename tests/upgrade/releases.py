"""Source trees of other releases of EcoLink, and processes that run from them.

A tree is a folder with the packages of a release and the metadata of its version. Processes run
with the installed dependencies of this release.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[2]

COMMIT = "ECOLINK_TEST_RELEASE"
"""Environment variable with a commit to use instead of the last release."""

SUBJECT = re.compile(r"release: (\d+)\.(\d+)\.(\d+)")
"""Subject of the commit of a release."""

FIRST = (0, 2, 0)
"""Version of the first published release. Commits of earlier ones have events of other versions."""

PACKAGES = (
    *("deploy", "domain", "extensions", "gateway"),
    *("infrastructure", "projections", "services", "tests"),
)

COPIED = (*PACKAGES, "pyproject.toml")

BUILT = "gateway/web/static/vendor"
"""Folder of scripts and styles, which is no part of the repository. All trees have the same."""


class NoRelease(Exception):
    """The history has no commit of a release."""


class NoHistory(NoRelease):
    """The source has no Git history, or only a part of it."""


@dataclass(frozen=True)
class Release:
    """A release whose source is in a folder."""

    name: str
    tree: Path

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables with which Python imports the packages of the tree."""
        return {"PYTHONPATH": str(self.tree)}

    @staticmethod
    def argv(module: str, *arguments: str) -> tuple[str, ...]:
        """Return the command that runs a module."""
        return (sys.executable, "-P", "-m", module, *arguments)

    def run(self, module: str, *arguments: str, variables: Mapping[str, str]) -> str:
        """Run a module until it ends. Return its output, or fail with it."""
        ended = subprocess.run(
            self.argv(module, *arguments),
            cwd=self.tree,
            env=os.environ | dict(variables) | self.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{self.name}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def python(self, code: str, *arguments: str) -> str:
        """Run Python code with the packages of the tree. Return its output, or fail with it."""
        ended = subprocess.run(
            (sys.executable, "-P", "-c", code, *arguments),
            cwd=self.tree,
            env=os.environ | self.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{self.name}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def require_own_imports(self) -> None:
        """Fail if Python finds a package or the version of another tree."""
        code = (
            "import importlib, sys\n"
            "from infrastructure.process.code_version import package_version\n"
            "print(package_version())\n"
            "for name in sys.argv[1:]: print(importlib.import_module(name).__path__[0])"
        )
        version, *found = self.python(code, *PACKAGES).split()
        assert version == version_of(self.tree)
        assert found == [str(self.tree / name) for name in PACKAGES]


def version_of(tree: Path) -> str:
    """Return the version of a tree."""
    return tomllib.loads((tree / "pyproject.toml").read_text())["project"]["version"]


def release_commit(repository: Path = ROOT) -> str:
    """Return the commit of the newest release before the working tree, or the one that is wanted.

    Before the first release, this is the newest commit. Raise NoRelease, with what to do, if the
    history has none.
    """
    if wanted := os.environ.get(COMMIT):
        return wanted
    require_clone(repository)
    for line in _git(repository, "log", "--format=%H %s").splitlines():
        commit, _, subject = line.partition(" ")
        found = SUBJECT.fullmatch(subject)
        if found and tuple(map(int, found.groups())) >= FIRST:
            return commit
    if _git(repository, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise NoHistory(
            "The clone is shallow and has no commit `release: X.Y.Z`. Run `git fetch --unshallow`."
        )
    if version_of(repository).partition(".dev")[0] == ".".join(map(str, FIRST)):
        return "HEAD"
    raise NoRelease(f"The history has no commit `release: X.Y.Z`. Set {COMMIT} to a commit.")


def require_clone(repository: Path) -> None:
    """Raise NoHistory if a folder is not a clone of the repository, such as a source archive."""
    if not (repository / ".git").exists():
        raise NoHistory(f"{repository} is no clone of the Git repository. Clone it.")


def last_release(folder: Path, repository: Path = ROOT) -> Release:
    """Extract the last release into a new folder."""
    commit = release_commit(repository)
    archive = subprocess.run(
        ("git", "archive", "--format=tar", commit, *COPIED),
        cwd=repository,
        capture_output=True,
        check=True,
    )
    folder.mkdir()
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return _prepared("last", folder)


def working_copy(folder: Path, name: str = "this") -> Release:
    """Copy the working tree, with its uncommitted changes, into a new folder."""
    require_clone(ROOT)
    folder.mkdir()
    listed = _git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", *COPIED)
    for file in filter(None, listed.split("\0")):
        source, target = ROOT / file, folder / file
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return _prepared(name, folder)


@dataclass(frozen=True)
class Edit:
    """A change of a file of a tree: `old` occurs exactly once, and `new` replaces it."""

    file: str
    old: str
    new: str

    def apply(self, tree: Path) -> None:
        """Change the file. Fail if the text is not there, because the source has changed."""
        path = tree / self.file
        text = path.read_text() if path.exists() else ""
        assert self.old == "" or text.count(self.old) == 1, f"{self.file} lacks {self.old!r}"
        path.write_text(text.replace(self.old, self.new) if self.old else text + self.new)


def edited(folder: Path, edits: Iterable[Edit], version: str) -> Release:
    """Copy the working tree, and make another release of it."""
    release = working_copy(folder, "next")
    for each in edits:
        each.apply(folder)
    old = version_of(folder)
    Edit("pyproject.toml", f'\nversion = "{old}"', f'\nversion = "{version}"').apply(folder)
    return _prepared(release.name, folder)


def _prepared(name: str, folder: Path) -> Release:
    """Add what an installation adds to the source: the metadata, and the built scripts."""
    for old in folder.glob("ecolink-*.dist-info"):
        (old / "METADATA").unlink()
        old.rmdir()
    version = version_of(folder)
    metadata = folder / f"ecolink-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: ecolink\nVersion: {version}\n"
    )
    vendor = folder / BUILT
    if not vendor.exists():
        shutil.copytree(ROOT / BUILT, vendor)
    folder.chmod(0o755)
    return Release(name, folder)


def _git(repository: Path, *arguments: str) -> str:
    return subprocess.run(
        ("git", *arguments), cwd=repository, capture_output=True, text=True, check=True
    ).stdout
