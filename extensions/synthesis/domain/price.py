"""The price of a synthesis before its approval.

A token has at least one byte, so the bytes of a prompt bound its tokens. On average, a token has
about four bytes. The range assumes six and three.
"""

from __future__ import annotations

from dataclasses import dataclass

from domain.billing.token_rates import TokenUsage
from domain.core.value import Value
from extensions.synthesis.domain.plan import SynthesisPlan

BYTES_LOW, BYTES_HIGH = 6, 3
"""Bytes of a token at the lower and upper end of the range."""

TEMPLATE_TOKENS = 200
"""Most tokens that the chat template adds to a prompt."""

SHORTEST_ANSWER = 12
"""Tokens of the shortest valid chat, which is little more than its JSON."""

JUDGE_BYTES = 8_000
"""Most bytes of a judge's prompt. Longer chats are shortened."""

JUDGE_TOKENS = 24
"""Most tokens of a judgement."""


class PromptBytes(Value):
    """The sizes of the shortest and the longest prompt that a plan can make."""

    shortest: int
    longest: int


class CostRange(Value):
    """The lowest and the highest cost of a synthesis, in micro-dollars."""

    low_micros: int
    high_micros: int


@dataclass(frozen=True)
class Pricing:
    """The prices of a plan whose prompts have some sizes."""

    plan: SynthesisPlan
    prompt: PromptBytes

    def range(self) -> CostRange:
        """Return the range for all examples. The run pauses before it costs more."""
        plan, rates = self.plan, self.plan.rates
        if rates.free:
            return CostRange(low_micros=0, high_micros=0)
        least = TokenUsage(
            prompt_tokens=self.prompt.shortest // BYTES_LOW, completion_tokens=SHORTEST_ANSWER
        )
        most = TokenUsage(
            prompt_tokens=self.prompt.longest // BYTES_HIGH + TEMPLATE_TOKENS,
            completion_tokens=plan.answer_tokens,
        )
        if plan.judged:
            judged = TokenUsage(
                prompt_tokens=JUDGE_BYTES // BYTES_HIGH + TEMPLATE_TOKENS,
                completion_tokens=JUDGE_TOKENS,
            )
            most += judged
        low = rates.charge_micros(least.times(plan.examples))
        return CostRange(
            low_micros=low,
            # One attempt of the guaranteed size, so that the last batch fits below the bound.
            high_micros=rates.price_micros(most.times(plan.most_attempts))
            + self.attempt_micros(self.prompt.longest),
        )

    def attempt_micros(self, prompt_bytes: int) -> int:
        """Return the highest price of one attempt, with a prompt of this size."""
        return self.plan.rates.price_micros(attempt_usage(self.plan, prompt_bytes))


def attempt_usage(plan: SynthesisPlan, prompt_bytes: int) -> TokenUsage:
    """Return the most tokens of one attempt: a generated chat and its judgement."""
    most = TokenUsage(
        prompt_tokens=prompt_bytes + TEMPLATE_TOKENS, completion_tokens=plan.answer_tokens
    )
    if plan.judged:
        most += TokenUsage(
            prompt_tokens=JUDGE_BYTES + TEMPLATE_TOKENS, completion_tokens=JUDGE_TOKENS
        )
    return most
