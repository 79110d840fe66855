"""Variables from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from infrastructure.process.secret_files import DIRECTORY, load_secret_files


def loaded(directory: Path, **variables: str) -> dict[str, str]:
    given = {DIRECTORY: str(directory), **variables}
    load_secret_files(given)
    return given


def test_each_file_sets_the_variable_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "ecolink_database_url").write_text("postgresql://host/name\n")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("  secret ")
    found = loaded(tmp_path)
    assert found["ECOLINK_DATABASE_URL"] == "postgresql://host/name"
    assert found["AWS_SECRET_ACCESS_KEY"] == "secret"


def test_a_variable_that_is_set_has_priority(tmp_path: Path) -> None:
    (tmp_path / "ecolink_log_level").write_text("DEBUG")
    assert loaded(tmp_path, ECOLINK_LOG_LEVEL="INFO")["ECOLINK_LOG_LEVEL"] == "INFO"


def test_links_of_kubernetes_are_followed_and_other_names_ignored(tmp_path: Path) -> None:
    current = tmp_path / "..2026_11_28"
    current.mkdir()
    (current / "ecolink_serving_secret").write_text("secret")
    (tmp_path / "ecolink_serving_secret").symlink_to(current / "ecolink_serving_secret")
    (tmp_path / "services.creds").write_text("credentials")
    (tmp_path / "folder").mkdir()
    assert set(loaded(tmp_path)) == {DIRECTORY, "ECOLINK_SERVING_SECRET"}


def test_without_the_setting_nothing_is_read() -> None:
    variables: dict[str, str] = {}
    load_secret_files(variables)
    assert variables == {}


def test_an_error_names_the_setting_and_the_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{DIRECTORY} is '{tmp_path}/missing'.*Mount"):
        loaded(tmp_path / "missing")


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ecolink_api_key").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=DIRECTORY):
        loaded(tmp_path)
