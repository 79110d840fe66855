"""Without the packages of the server, `ecolink` is the client of a remote EcoLink."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = """
import importlib.util
import sys
import urllib.request, zoneinfo  # before the platform changes, because both read files of it
from importlib.metadata import packages_distributions
from importlib.util import find_spec

from infrastructure.extras import extras_of_features, packages_of

packages = {each.name for extra in extras_of_features() for each in packages_of(extra)}
modules = {name for name, of in packages_distributions().items() if packages.issuperset(of)}
assert modules >= {"fastapi", "faststream", "nats", "obstore", "psutil", "torch"}, modules
importlib.util.find_spec = lambda name: None if name in modules else find_spec(name)

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in modules:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.platform = sys.argv.pop(1)
from deploy.command import main
main()
"""


def client(folder: Path, *arguments: str, platform: str = "linux") -> tuple[int, str]:
    """Run a command without the packages of extras. Return its exit code and output."""
    ended = subprocess.run(
        [sys.executable, "-c", CLIENT, platform, *arguments],
        env={"XDG_CONFIG_HOME": str(folder), "HOME": str(folder), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_a_client_has_the_commands_of_account_holders(tmp_path: Path) -> None:
    code, text = client(tmp_path, "--help")
    assert code == 0
    assert "webhooks" in text, "extensions add groups"
    assert "doctor" not in text
    code, text = client(tmp_path, "jobs", "list")
    assert code == 7
    assert "Sign in with `ecolink login URL`" in text


@pytest.mark.parametrize(
    ("platform", "fix"),
    [("linux", "pip install 'ecolink[server,trainer]'"), ("darwin", "in containers or in WSL 2")],
)
def test_the_error_of_a_server_command_names_the_fix(
    platform: str, fix: str, tmp_path: Path
) -> None:
    code, text = client(tmp_path, "up", "--json", platform=platform)
    assert code == 2
    assert fix in json.loads(text)["error"]["message"]
