"""Settings of payments by card."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class CardSettings(BaseSettings):
    """The variables of payments by card."""

    model_config = SettingsConfigDict(env_prefix="ECOLINK_", extra="ignore")

    stripe_secret_key: str | None = Field(
        default=None,
        repr=False,
        description="Secret key of Stripe, or a restricted key. With it, account holders top up by "
        "card. Only the gateway and billing get it.",
    )
    stripe_webhook_secret: str | None = Field(
        default=None,
        repr=False,
        description="Signing secret of the webhook in Stripe's dashboard (`whsec_...`). Only the "
        "gateway gets it.",
    )
    stripe_api_base: str | None = Field(
        default=None, description="URL of the Stripe API, for tests. The default is Stripe's."
    )
