"""Prompts and prices of a synthesis."""

from __future__ import annotations

import json

from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.synthesis.price import JUDGE_BYTES, Pricing, attempt_usage
from domain.synthesis.prompts import Prompts, prompt_sha256
from domain.synthesis.request import Document, SynthesisRequest
from tests.domain.synthesis.test_synthesis import PLAN

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=3_000)
SEED = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


@for_all(
    instructions=TEXT,
    topics=st.lists(st.text("abcé漢 ", min_size=1, max_size=200).filter(str.strip), max_size=3),
    documents=st.lists(TEXT.filter(str.strip), max_size=2),
    attempt=st.integers(0, 50),
)
def test_every_prompt_is_within_its_sizes(
    instructions: str, topics: list[str], documents: list[str], attempt: int
) -> None:
    request = SynthesisRequest(
        name="x",
        instructions=instructions,
        topics=tuple(topics),
        documents=tuple(Document(name="d", text=each) for each in documents),
    )
    prompts = Prompts.of(PLAN, request, [SEED, SEED, SEED])
    drawn = prompts.drawn(attempt)
    written = prompts.write(drawn)
    assert prompts.drawn(attempt) == drawn
    assert prompt_sha256(prompts.write(drawn)) == prompt_sha256(written)
    size = sum(len(each["content"].encode()) for each in written)
    sizes = prompts.sizes()
    assert sizes.shortest <= size <= sizes.longest
    judge = prompts.judge(drawn, [{"user": instructions, "assistant": "漢" * 9_000}])
    assert sum(len(each["content"].encode()) for each in judge) <= JUDGE_BYTES


def test_the_range_covers_the_guaranteed_attempts() -> None:
    request = SynthesisRequest(name="x", instructions="Talk about tea.")
    pricing = Pricing(PLAN, Prompts.of(PLAN, request).sizes())
    cost = pricing.range()
    assert 0 < cost.low_micros < cost.high_micros
    typical = attempt_usage(PLAN, 300)
    assert PLAN.rates.charge_micros(typical) <= cost.high_micros


def test_seed_examples_are_shown_without_their_system_message() -> None:
    example = {"messages": [{"role": "system", "content": "hidden"}, *SEED["messages"]]}
    request = SynthesisRequest(name="x", instructions="Talk about tea.")
    prompts = Prompts.of(PLAN, request, [example])
    prompt = prompts.write(prompts.drawn(0))[1]["content"]
    assert json.dumps({"turns": [{"user": "q", "assistant": "a"}]}) in prompt
    assert "hidden" not in prompt
