"""The files for Docker and Kubernetes have the processes of all extensions of this repository."""

from __future__ import annotations

import pytest

from infrastructure.extensions import installed

WITH_PROCESSES = {"alerts", "exports", "notifications", "synthesis", "trackers"}

need_all_processes = pytest.mark.skipif(
    not {each.name for each in installed()} >= WITH_PROCESSES,
    reason="the files have processes of extensions that are not installed",
)
