"""Installs EcoLink from a clone into a virtual environment. It needs only the standard library.

uv installs the packages, because it is several times faster than pip. If uv cannot be installed,
pip installs them.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

CONSTRAINTS = "constraints.txt"

PIP_OPTIONS = {
    "constraint": "--constraint",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "index-url": "--default-index",
    "trusted-host": "--allow-insecure-host",
}
"""Options of uv by the setting of pip. uv does not read pip's configuration."""

CERTIFICATES = "cert"
"""Setting of pip that uv has as a variable."""


def main() -> None:
    """Install the extras and the groups of dependencies that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venv", type=Path)
    parser.add_argument("--extras", required=True, help="comma-separated extras")
    parser.add_argument("--group", action="append", default=[], help="a dependency group")
    given = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036 - it runs before pip could refuse
        sys.exit("EcoLink needs Python 3.11 or later. Choose one with `make PYTHON=...`.")
    if sys.platform != "linux":
        sys.exit(
            "An EcoLink server runs on Linux. On macOS and Windows, run it in containers or in "
            "WSL 2. For the client alone, run `pip install ecolink`."
        )
    python = given.venv / "bin" / "python"
    if not (given.venv / "bin" / "pip").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", given.venv], check=True)
    wanted = ["--editable", f".[{given.extras}]", "--constraint", CONSTRAINTS]
    wanted += [part for name in given.group for part in ("--group", name)]
    install(python, wanted)


def install(python: Path, wanted: list[str]) -> None:
    """Install requirements with uv, or with pip if uv cannot be installed or fails."""
    pip = [python, "-m", "pip", "install", "--quiet"]
    if runs(*pip, "uv", "--constraint", CONSTRAINTS):
        settings = pip_settings(python)
        options, variables = uv_options(settings)
        uv = [python, "-m", "uv", "pip", "install", "--python", python, *options, *wanted]
        # Without a GPU, this is the build of PyTorch for the CPU. It has an index of its own, so
        # it is for machines without configured sources of packages.
        torch = [] if options else ["--torch-backend=auto"]
        if runs(*uv, *torch, **variables) or (torch and runs(*uv, **variables)):
            return
    print("uv cannot install the packages, so pip does. This takes some minutes.", flush=True)
    subprocess.run([*pip, "--upgrade", "pip"], check=True)  # older versions know no groups
    subprocess.run([*pip[:-1], *wanted], check=True)


def runs(*command: str | Path, **variables: str) -> bool:
    """Return True if a program exists and exits with 0."""
    try:
        return subprocess.run(command, env=os.environ | variables, check=False).returncode == 0
    except FileNotFoundError:
        return False


def pip_settings(python: Path) -> dict[str, str]:
    """Return the values in pip's files and variables by the name of the setting."""
    listed = subprocess.run(
        [python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.stdout.splitlines():  # such as global.index-url='https://...'
        name, _, value = line.partition("=")
        section, _, setting = name.rpartition(".")
        sections.get(section, {})[setting] = str(ast.literal_eval(value))
    return sections["global"] | sections["install"] | sections[":env:"]


def uv_options(settings: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the options and the variables of uv for settings of pip. Values can be lists."""
    options = [
        part
        for name, option in PIP_OPTIONS.items()
        for value in settings.get(name, "").split()
        for part in (option, value)
    ]
    variables = {}
    if CERTIFICATES in settings:
        variables["SSL_CERT_FILE"] = settings[CERTIFICATES]
    return options, variables


if __name__ == "__main__":
    main()
