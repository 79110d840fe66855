"""Backup: copies of all data, from which EcoLink is restored elsewhere."""

from infrastructure.extensions import Extension

EXTENSION = Extension(
    package=__name__,
    summary="Copies of all data, from which EcoLink is restored elsewhere.",
    operator_commands=("operator_cli:commands",),
)
