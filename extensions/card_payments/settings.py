"""Settings of payments by card."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from infrastructure.settings import INTERNAL, Variables


class CardSettings(Variables):
    """The variables of payments by card."""

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
    stripe_api_base: Annotated[str | None, INTERNAL] = Field(
        default=None, description="URL of the Stripe API, for tests. The default is Stripe's."
    )
