"""Slurm: a launcher that runs trainers as batch jobs of a cluster."""

from extensions.slurm.settings import SlurmSettings
from infrastructure.extensions import Extension, LauncherOf

EXTENSION = Extension(
    package=__name__,
    summary="A launcher that runs trainers as batch jobs of a Slurm cluster.",
    settings=SlurmSettings,
    launchers={"slurm": LauncherOf(open="launcher:SlurmLauncher", checks="checks:slurm_checks")},
)
