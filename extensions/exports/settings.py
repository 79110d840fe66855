"""Settings of exports."""

from __future__ import annotations

from pydantic import Field

from infrastructure.settings import Variables


class ExportSettings(Variables):
    """The variables of exports. Pushes also need `hub_endpoint` of the core."""

    export_retention_days: int = Field(
        default=7,
        ge=1,
        description="Days for which EcoLink keeps the files of an exported model. It can be "
        "exported again.",
    )
    max_concurrent_exports: int = Field(
        default=1, ge=1, description="Number of models that are exported at the same time."
    )
    max_concurrent_pushes: int = Field(
        default=4,
        ge=1,
        description="Number of pushes to a hub that run at the same time. An account has at most "
        "one. If the artifact store is remote, each needs disk space for a copy of the export.",
    )
