"""Prompts and prices of a synthesis."""

from __future__ import annotations

import json

from hypothesis import given as for_all
from hypothesis import strategies as st

from extensions.synthesis.domain.demonstrations import DEMONSTRATIONS
from extensions.synthesis.domain.price import JUDGE_BYTES, Pricing, attempt_usage
from extensions.synthesis.domain.prompts import (
    PERSONAS,
    SCORE_SCHEMA,
    SEED_CHARACTERS,
    STYLES,
    Prompts,
    Seed,
    prompt_sha256,
)
from extensions.synthesis.domain.request import Document, SynthesisRequest
from tests.extensions.synthesis.domain.test_synthesis import PLAN

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=3_000)
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SEED = Seed.of({"messages": CHAT})


@for_all(
    instructions=TEXT,
    topics=st.lists(st.text("abcé漢 ", min_size=1, max_size=200).filter(str.strip), max_size=3),
    documents=st.lists(TEXT.filter(str.strip), max_size=2),
    attempt=st.integers(0, 50),
    seeds=st.sampled_from([0, 1, 3]),
    personas=st.booleans(),
)
def test_every_prompt_is_within_its_sizes(
    instructions: str,
    topics: list[str],
    documents: list[str],
    attempt: int,
    seeds: int,
    personas: bool,
) -> None:
    request = SynthesisRequest(
        name="x",
        instructions=instructions,
        topics=tuple(topics),
        documents=tuple(Document(name="d", text=each) for each in documents),
    )
    plan = PLAN.model_copy(update={"personas": personas, "turns": 3})
    prompts = Prompts.of(plan, request, [SEED] * seeds)
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
    example = {"messages": [{"role": "system", "content": "hidden"}, *CHAT]}
    request = SynthesisRequest(name="x", instructions="Talk about tea.")
    prompts = Prompts.of(PLAN, request, [Seed.of(example)])
    _, request_of_seed, seed, wanted = prompts.write(prompts.drawn(0))
    assert json.loads(seed["content"]) == {"turns": [{"user": "q", "assistant": "a"}]}
    assert seed["role"] == "assistant"
    assert (request_of_seed["role"], wanted["role"]) == ("user", "user")
    assert "hidden" not in str(prompts.write(prompts.drawn(0)))


def test_a_long_seed_example_is_shown_as_valid_json() -> None:
    turn = [{"role": "user", "content": "q" * 900}, {"role": "assistant", "content": "ä" * 900}]
    request = SynthesisRequest(name="x", instructions="Talk about tea.")
    prompts = Prompts.of(PLAN, request, [Seed.of({"messages": turn * 5})])
    (shown,) = prompts.seeds
    assert len(shown.text) <= SEED_CHARACTERS
    assert len(json.loads(shown.text)["turns"]) == shown.questions == 1


def test_demonstrations_are_shown_only_without_seed_examples() -> None:
    request = SynthesisRequest(name="x", instructions="Talk about tea.")
    bare = Prompts.of(PLAN, request)
    drawn = bare.drawn(3)
    shown = [each["content"] for each in bare.write(drawn) if each["role"] == "assistant"]
    expected = [DEMONSTRATIONS[each].turns[: drawn.turns] for each in drawn.demonstrations]
    assert [json.loads(each)["turns"] for each in shown] == [list(each) for each in expected]
    assert Prompts.of(PLAN, request, [SEED]).drawn(3).demonstrations == ()
    for each in DEMONSTRATIONS:
        assert each.persona in PERSONAS
        assert each.style in STYLES


def test_finished_judgements_are_of_the_required_form() -> None:
    prompts = Prompts.of(PLAN, SynthesisRequest(name="x", instructions="Talk about tea."))
    messages = prompts.judge(prompts.drawn(0), [{"user": "q", "assistant": "a"}])
    answers = [json.loads(each["content"]) for each in messages if each["role"] == "assistant"]
    assert {each["helpful"] for each in answers} == {"yes", "no"}
    for each in answers:
        assert list(each) == SCORE_SCHEMA["required"]
        assert (each["score"] > 5) == (each["helpful"] == "yes")
