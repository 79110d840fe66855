"""Requests through the system's resolver, with a name server that changes its answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infrastructure.rebinding import CLIENTS, PERMITTED

pytestmark = pytest.mark.full

NAMESPACES = ("unshare", "--mount", "--net")

can_rebind = (
    os.geteuid() == 0
    and all(map(shutil.which, ("unshare", "ip", "mount")))
    and subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0
)


@pytest.mark.skipif(not can_rebind, reason="needs root and namespaces")
@pytest.mark.parametrize("client", CLIENTS)
def test_a_name_server_cannot_change_the_address_after_the_check(
    client: str, tmp_path: Path
) -> None:
    """A second look-up for the connection would reach the private address, as the next one does."""
    command = (sys.executable, "-m", "tests.infrastructure.rebinding", client)
    ended = subprocess.run(
        [*NAMESPACES, *command, tmp_path / "resolv.conf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout.splitlines()) == (0, [PERMITTED, "refused"]), (
        ended.stderr
    )
