"""The rows of the conformance tests of launchers."""

from __future__ import annotations

from extensions.slurm.settings import SlurmSettings
from tests.extensions.slurm.rows import fake_row, real_row
from tests.services.scheduler.launchers.rows import Row

ROWS = {
    "slurm-fake": Row("slurm", model=SlurmSettings, infrastructure=fake_row),
    "slurm": Row("slurm", model=SlurmSettings, infrastructure=real_row),
}
