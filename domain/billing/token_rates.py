"""Prices of tokens, and the exact charge for a number of tokens."""

from __future__ import annotations

from pydantic import Field

from domain.core.value import Value

MILLION = 1_000_000


class TokenUsage(Value):
    """Numbers of tokens that a model read and generated."""

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )

    def times(self, count: int) -> TokenUsage:
        """Return the usage of `count` requests like this one."""
        return TokenUsage(
            prompt_tokens=count * self.prompt_tokens,
            completion_tokens=count * self.completion_tokens,
        )


class TokenRates(Value):
    """Prices in micro-dollars per million tokens."""

    prompt_micros: int = Field(ge=0)
    completion_micros: int = Field(ge=0)

    @property
    def free(self) -> bool:
        """True if tokens cost nothing."""
        return self.prompt_micros == 0 and self.completion_micros == 0

    def charge_micros(self, usage: TokenUsage) -> int:
        """Return the cumulative charge in micro-dollars, rounded half up, so that parts add up."""
        return (2 * self._scaled(usage) + MILLION) // (2 * MILLION)

    def price_micros(self, usage: TokenUsage) -> int:
        """Return the highest charge for a part: rounding adds at most one to its exact price."""
        return -(-self._scaled(usage) // MILLION) + (0 if self.free else 1)

    def _scaled(self, usage: TokenUsage) -> int:
        return (
            self.prompt_micros * usage.prompt_tokens
            + self.completion_micros * usage.completion_tokens
        )


FREE = TokenRates(prompt_micros=0, completion_micros=0)
"""Rates of an endpoint whose provider charges its customer directly."""
