"""The alerts process starts small."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.full

HEAVY = ("apprise", "requests", "torch", "transformers", "fastapi", "numpy", "cryptography.x509")


def test_the_process_loads_no_heavy_package_before_it_sends_a_message() -> None:
    code = (
        "import sys; import extensions.alerts.app; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() in ("[]", "['cryptography.x509']"), shown
