"""Settings of syntheses."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SynthesisSettings(BaseSettings):
    """The variables of syntheses."""

    model_config = SettingsConfigDict(env_prefix="ECOLINK_", extra="ignore")

    synthesis_requests: int = Field(
        default=8,
        ge=1,
        le=100,
        description="Requests that a synthesis sends to its model at the same time.",
    )
    synthesis_prompt_price: int = Field(
        default=100_000,
        ge=0,
        description="Price of one million tokens that a deployed model reads for a synthesis, in "
        "micro-dollars. Approved syntheses keep their price.",
    )
    synthesis_completion_price: int = Field(
        default=400_000,
        ge=0,
        description="Price of one million tokens that a deployed model generates for a synthesis, "
        "in micro-dollars. Approved syntheses keep their price.",
    )
