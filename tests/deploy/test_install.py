"""The installation from a clone passes pip's configuration to uv, and uses pip if uv fails."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from deploy import install

PROGRAM = """#!{python}
import sys
from pathlib import Path

with Path("calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
failing = Path("failing").read_text().splitlines()
sys.exit(any(words in " ".join(sys.argv) for words in failing))
"""


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that records its arguments, and fails with those of the file `failing`."""
    program = tmp_path / "python"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    return program


def calls(python: Path, *failing: str) -> list[str]:
    """Return the commands of an installation that install packages."""
    Path("failing").write_text("\n".join(failing))
    install.install(python, ["--editable", ".[server]"])
    found = Path("calls").read_text().splitlines()
    return [each.removeprefix("-m ") for each in found if "install" in each]


def test_uv_installs_the_packages(python: Path) -> None:
    bootstrap, packages = calls(python)
    assert bootstrap == "pip install --quiet uv --constraint constraints.txt"
    assert packages.startswith(f"uv pip install --python {python}")
    assert packages.endswith("--editable .[server] --torch-backend=auto")


def test_uv_runs_again_without_the_index_of_pytorch_if_it_fails(python: Path) -> None:
    *_, last = calls(python, "--torch-backend")
    assert last.startswith("uv pip install")
    assert last.endswith("--editable .[server]")


@pytest.mark.parametrize("failing", ["uv pip install", "install --quiet uv"])
def test_pip_installs_the_packages_if_uv_fails(python: Path, failing: str) -> None:
    *_, upgrade, packages = calls(python, failing)
    assert upgrade == "pip install --quiet --upgrade pip"
    assert packages == "pip install --editable .[server]"


def test_variables_of_pip_override_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in os.environ if each.startswith("PIP_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://global.example.org\nfind-links =\n  /one\n  /two\n"
        "[install]\nindex-url = https://install.example.org\n[wheel]\nfind-links = /three\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    python = Path(sys.executable)
    found = install.pip_settings(python)
    assert found["index-url"] == "https://install.example.org"
    assert found["find-links"].split() == ["/one", "/two"]
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.example.org")
    assert install.pip_settings(python)["index-url"] == "https://variable.example.org"


def test_settings_of_pip_become_options_and_variables_of_uv() -> None:
    settings = {"find-links": "\n/one\n/two", "cert": "/ca.pem", "timeout": "60"}
    options, variables = install.uv_options(settings)
    assert options == ["--find-links", "/one", "--find-links", "/two"]
    assert variables == {"SSL_CERT_FILE": "/ca.pem"}


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(sys, "argv", ["install", str(tmp_path), "--extras", "server"])
    with pytest.raises(SystemExit, match="in containers or in WSL 2"):
        install.main()
    assert not any(tmp_path.iterdir())
