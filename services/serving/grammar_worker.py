"""Compilation of a grammar in a limited process: the library does not bound its time."""

from __future__ import annotations

from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from infrastructure.process.limited_process import serve

LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    step_max_items=25_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
)
"""Limits of one grammar. Those of the library allow more than a second for a token."""


def compiled(request: dict[str, Any], _: object) -> str:
    """Return the error of a grammar, or an empty text."""
    return LLMatcher(
        LLTokenizer("byte"), request["grammar"], log_level=0, limits=LIMITS
    ).get_error()


if __name__ == "__main__":
    serve(compiled)
