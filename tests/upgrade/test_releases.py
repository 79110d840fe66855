"""The trees of releases: where they come from, and that Python imports from them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.upgrade.releases import COMMIT, Edit, NoRelease, Release, release_commit


class Repository:
    """A Git repository with commits of some subjects."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch", "main")

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com")
        ended = subprocess.run(
            ("git", *identity, *arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        return ended.stdout.strip()

    def has_version(self, version: str) -> None:
        (self.folder / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')

    def commit(self, subject: str) -> str:
        self.git("commit", "--quiet", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.delenv(COMMIT, raising=False)
    return Repository(tmp_path / "repository")


def test_the_last_release_is_the_newest_commit_before_the_tree_with_its_subject(
    repository: Repository,
) -> None:
    repository.commit("release: 0.2.0")
    newest = repository.commit("release: 0.3.0")
    repository.git("checkout", "--quiet", "-b", "other")
    repository.commit("release: 9.0.0")
    repository.git("checkout", "--quiet", "main")
    repository.commit("docs: describe release: 0.4.0")
    repository.commit("release: soon")
    assert release_commit(repository.folder) == newest


def test_a_shallow_clone_says_how_to_get_the_release(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit("release: 0.2.0")
    repository.commit("docs: more")
    shallow = tmp_path / "shallow"
    url = repository.folder.as_uri()
    repository.git("clone", "--quiet", "--depth", "1", url, str(shallow))
    with pytest.raises(NoRelease, match="git fetch --unshallow"):
        release_commit(shallow)


def test_without_a_release_or_a_repository_the_reason_is_clear(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit("docs: begin")
    repository.has_version("0.3.0")
    with pytest.raises(NoRelease, match=COMMIT):
        release_commit(repository.folder)
    with pytest.raises(NoRelease, match="no clone"):
        release_commit(tmp_path)


def test_before_the_first_release_the_newest_commit_stands_for_it(repository: Repository) -> None:
    repository.commit("release: 0.1.0")  # not published
    for version in ("0.2.0.dev0", "0.2.0"):
        repository.has_version(version)
        assert release_commit(repository.folder) == "HEAD"


def test_a_wanted_commit_replaces_the_release(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMIT, "HEAD~3")
    assert release_commit(repository.folder) == "HEAD~3"


@pytest.mark.full
@pytest.mark.parametrize("name", ["last", "this", "next_"])
def test_python_imports_only_from_the_tree(name: str, request: pytest.FixtureRequest) -> None:
    release: Release = request.getfixturevalue(name)
    release.require_own_imports()


def test_an_edit_whose_place_is_gone_fails(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("one\ntwo\none\n")
    Edit("file.py", "two", "three").apply(tmp_path)
    assert (tmp_path / "file.py").read_text() == "one\nthree\none\n"
    for old in ("two", "one"):
        with pytest.raises(AssertionError, match="lacks"):
            Edit("file.py", old, "four").apply(tmp_path)
