"""Settings of alerts."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class AlertSettings(BaseSettings):
    """The variables of alerts."""

    model_config = SettingsConfigDict(env_prefix="ECOLINK_", extra="ignore")

    alerts_file: Path | None = Field(
        default=None,
        description="TOML file with receivers of alerts, and with changed and additional alert "
        "rules. If unset, EcoLink stores alerts by the shipped rules, and notifies no one.",
    )
