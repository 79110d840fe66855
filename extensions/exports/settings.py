"""Settings of exports."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ExportSettings(BaseSettings):
    """The variables of exports. Pushes also need `hub_endpoint` of the core."""

    model_config = SettingsConfigDict(env_prefix="ECOLINK_", extra="ignore")

    export_days: int = Field(
        default=7,
        ge=1,
        description="Days for which EcoLink keeps the files of an exported model. It can be "
        "exported again.",
    )
    exports_at_once: int = Field(
        default=1, ge=1, description="Number of models that are exported at the same time."
    )
    pushes_at_once: int = Field(
        default=4,
        ge=1,
        description="Number of pushes to a hub that run at the same time. An account has at most "
        "one. If the artifact store is remote, each needs disk space for a copy of the export.",
    )
