"""Settings of syntheses."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from infrastructure.settings import Variables

Price = Annotated[Decimal, Field(ge=0, le=1_000, decimal_places=6)]


class SynthesisSettings(Variables):
    """The variables of syntheses."""

    synthesis_requests: int = Field(
        default=8,
        ge=1,
        le=100,
        description="Requests that a synthesis sends to its model at the same time.",
    )
    synthesis_prompt_price_dollars: Price = Field(
        default=Decimal("0.10"),
        description="Price of one million tokens that a deployed model reads for a synthesis, in "
        "dollars. Approved syntheses keep their price.",
    )
    synthesis_completion_price_dollars: Price = Field(
        default=Decimal("0.40"),
        description="Price of one million tokens that a deployed model generates for a synthesis, "
        "in dollars. Approved syntheses keep their price.",
    )
