"""Syntheses with a scripted model: what it says, and what the run then has and costs."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from domain.billing.budget import BudgetName, BudgetPeriod
from domain.core.target import TargetPolicy
from domain.datasets.dataset import Contents, Dataset
from extensions.synthesis.domain.demonstrations import DEMONSTRATIONS
from extensions.synthesis.domain.plan import SourceKind
from extensions.synthesis.domain.price import JUDGE_TOKENS
from extensions.synthesis.domain.request import Document, SynthesisRequest
from extensions.synthesis.domain.synthesis import (
    StopReason,
    Synthesis,
    SynthesisFailure,
    SynthesisStatus,
)
from extensions.synthesis.process import generating
from extensions.synthesis.process.generating import TURN_BATCHES
from extensions.synthesis.process.run import Run, load_run
from infrastructure.artifacts.store import Artifacts
from tests.builders.examples import ACCOUNT_ID, DATASET_ID
from tests.extensions.synthesis.process.bench import QUICK, RATES, Bench, give_up, one_turn
from tests.scripted_model import Said, Scripted, always, first, is_judge

DONE = SynthesisStatus.REVIEWING


def lines_of(artifacts: Artifacts, ref: str) -> list[Any]:
    return [json.loads(line) for line in artifacts.get(ref).splitlines()]


def events_of(bench: Bench, id: UUID) -> list[Any]:
    return list(bench.log.events.get(id))


@pytest.mark.full
def test_a_deployed_model_writes_all_examples_within_the_range(
    bench: Bench, model: Scripted
) -> None:
    id = bench.approve(bench.deployed())
    run = bench.work(id, model.url)
    assert (run.status, run.counts.accepted, run.counts.attempts) == (DONE, 20, 20)
    charged = RATES.charge_micros(run.usage)
    assert run.usage.prompt_tokens == 100 * len(model.requests) == 100 * 40
    assert run.usage.completion_tokens == 20 * (50 + JUDGE_TOKENS)
    assert run.estimate.low_micros <= charged <= run.estimate.high_micros
    assert bench.account.balance_micros == 5_000_000 - charged == 5_000_000 - run.charged_micros
    assert bench.account.reserved_micros == 0
    assert bench.meter(id).charged_micros if False else bench.meter(id).usage == run.usage


def test_examples_have_their_origin_and_are_of_the_chat_form(bench: Bench, model: Scripted) -> None:
    request = SynthesisRequest(name="x", topics=("returns", "delivery"), system="Be brief.")
    run = bench.work(bench.approve(bench.deployed(), request), model.url)
    assert run.examples is not None
    assert run.provenance is not None
    examples = lines_of(bench.artifacts, run.examples.ref)
    header, *origins = lines_of(bench.artifacts, run.provenance.ref)
    content = bench.artifacts.get(run.examples.ref)
    assert hashlib.sha256(content).hexdigest() == run.examples.sha256
    assert header["plan"]["request_sha256"] == run.plan.request_sha256
    assert [each["example"] for each in origins] == list(range(1, 21))
    assert {each["drawn"]["topic"] for each in origins} == {0, 1}
    assert len({each["drawn"]["persona"] for each in origins}) > 4
    assert {each["asked"]["weights_sha256"][0] for each in origins} == {"b" * 64}
    assert {each["score"] for each in origins} == {8}
    for line, origin in zip(content.splitlines(keepends=True), origins, strict=True):
        assert hashlib.sha256(line).hexdigest() == origin["example_sha256"]
    for each in examples:
        system, *turns = [message["role"] for message in each["messages"]]
        assert system == "system"
        assert turns in (["user", "assistant"], ["user", "assistant"] * 2)


def test_an_external_endpoint_costs_nothing_and_gets_its_key(bench: Bench, model: Scripted) -> None:
    id = bench.approve(bench.external(model.url))
    run = bench.work(id)
    assert (run.status, run.counts.accepted) == (DONE, 20)
    assert bench.account.balance_micros == 5_000_000
    assert {each["model"] for each in model.requests} == {"gpt-test"}
    assert set(model.keys) == {"Bearer sk-secret"}


def test_a_run_asks_an_endpoint_that_refuses_max_tokens_without_it(
    bench: Bench, model: Scripted
) -> None:
    model.script = lambda _, body: Said(status=400 if "max_tokens" in body else 200)
    run = bench.work(bench.approve(bench.external(model.url)))
    assert (run.status, run.counts.accepted, run.batch) == (DONE, 20, 2)
    refused = [number for number, body in enumerate(model.requests) if "max_tokens" in body]
    assert len(model.requests) == 40 + len(refused)
    assert max(refused) < 16  # only the first batch asked with it


def test_failures_and_limits_of_rate_are_retried(bench: Bench, model: Scripted) -> None:
    busy = Said(status=429, headers={"retry-after": "0"})
    model.script = first([Said(status=500), busy, Said(status=503), busy])
    run = bench.work(bench.approve(bench.external(model.url)))
    assert (run.status, run.counts.accepted) == (DONE, 20)
    assert len(model.requests) == 40 + 4


@pytest.mark.full
@pytest.mark.parametrize(
    ("said", "status"),
    [
        pytest.param(Said(status=500), 500, id="fails"),
        pytest.param(Said(status=401), 401, id="refuses the key"),
        pytest.param(Said(status=429, headers={"retry-after": "3600"}), 429, id="is used up"),
    ],
)
def test_an_endpoint_that_keeps_failing_pauses_the_run(
    bench: Bench, model: Scripted, said: Said, status: int
) -> None:
    model.script = always(said)
    id = bench.approve(bench.external(model.url))
    run = bench.work(id)
    assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.ENDPOINT)
    assert len(model.requests) <= 4 * 3
    paused = [each for each in events_of(bench, id) if isinstance(each, Synthesis.SynthesisPaused)]
    assert [each.status for each in paused] == [status]
    model.script = always(Said())
    with bench.commanding() as use_case:
        use_case.resume(ACCOUNT_ID, id, None)
    assert bench.work(id).counts.accepted == 20


def test_a_stalled_endpoint_pauses_the_run(bench: Bench, model: Scripted) -> None:
    model.script = always(Said(stalls=True))
    run = bench.work(bench.approve(bench.external(model.url)), seconds=0.2)
    assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.ENDPOINT)


HALF = '{"turns": [{"user": "Is it \\ud800?", "assistant": "It is."}]}'
NONSENSE = [
    *("garbage", "no JSON", '{"turns": []}', '{"turns": [{"user": 1}]}'),
    *("\ud800", HALF, f'{{"turns": {"[" * 400}{"]" * 400}}}'),
]


@pytest.mark.full
def test_an_endpoint_that_answers_nonsense_pauses_the_run(
    bench: Bench, model: Scripted, subtests: pytest.Subtests
) -> None:
    endpoint = bench.external(model.url)
    for text in NONSENSE:
        with subtests.test(repr(text)):
            model.script, asked = always(Said(text)), len(model.requests)
            run = bench.work(bench.approve(endpoint))
            assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.UNUSABLE)
            assert (run.counts.invalid, run.counts.accepted) == (16, 0)
            assert len(model.requests) == asked + 16


LOW = '{"helpful": "yes", "score": 3}'


def test_the_judge_rejects_low_scores(bench: Bench, model: Scripted) -> None:
    judged = itertools.count()
    model.script = lambda _, body: Said(LOW if is_judge(body) and next(judged) % 3 == 0 else None)
    run = bench.work(bench.approve(bench.deployed(), examples=10), model.url)
    assert (run.status, run.counts.accepted) == (DONE, 10)
    assert run.counts.rejected > 0


def test_a_run_with_examples_pauses_only_after_three_batches_without_another(
    bench: Bench, model: Scripted
) -> None:
    chats = iter([None] * 20)
    model.script = lambda _, body: Said(None if is_judge(body) else next(chats, "nonsense"))
    run = bench.work(bench.approve(bench.deployed(), examples=40), model.url)
    assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.UNUSABLE)
    assert run.counts.accepted == 20
    assert 48 <= run.counts.invalid < 48 + 16


def test_an_unhelpful_chat_is_rejected_whatever_its_score(bench: Bench, model: Scripted) -> None:
    said = iter(['{"helpful": "no", "score": 9}'])
    model.script = lambda _, body: Said(next(said, None) if is_judge(body) else None)
    run = bench.work(bench.approve(bench.deployed(), examples=4), model.url)
    assert (run.counts.accepted, run.counts.rejected) == (4, 1)


def test_a_copy_of_a_demonstration_is_a_duplicate(bench: Bench, model: Scripted) -> None:
    copy = json.dumps({"turns": DEMONSTRATIONS[0].turns[:1]})
    said = iter([copy])
    model.script = lambda _, body: Said(None if is_judge(body) else next(said, None))
    run = bench.work(bench.approve(bench.deployed(), examples=4, turns=1), model.url)
    assert (run.counts.accepted, run.counts.duplicates) == (4, 1)


def test_repeated_examples_are_left_out(bench: Bench, model: Scripted) -> None:
    same = '{"turns": [{"user": "Where is my order now?", "assistant": "It arrives tomorrow."}]}'
    generated = itertools.count()
    model.script = lambda _, body: Said(None if is_judge(body) or next(generated) % 4 else same)
    run = bench.work(bench.approve(bench.deployed(), examples=10, turns=1), model.url)
    assert (run.status, run.counts.accepted) == (DONE, 10)
    assert run.counts.duplicates > 0
    assert run.examples is not None
    texts = [str(each) for each in lines_of(bench.artifacts, run.examples.ref)]
    assert len(set(texts)) == 10


def test_a_run_ends_with_its_attempts(bench: Bench, model: Scripted) -> None:
    same = '{"turns": [{"user": "Where is my order now?", "assistant": "It arrives tomorrow."}]}'
    texts = [None, None, *[same] * 100]
    asked = iter(texts)
    model.script = lambda _, body: Said(None if is_judge(body) else next(asked))
    run = bench.work(bench.approve(bench.deployed(), examples=4, turns=1, attempts=2), model.url)
    assert (run.status, run.counts.attempts) == (DONE, 8)
    assert run.counts.accepted == 3


def test_documents_are_used_part_by_part(bench: Bench, model: Scripted) -> None:
    text = "\n\n".join(f"Part {n}. " + "word " * 300 for n in range(8))
    document = Document(name="faq", text=text)
    request = SynthesisRequest(name="x", documents=(document,))
    run = bench.work(bench.approve(bench.deployed(), request, examples=8), model.url)
    assert run.plan.sources == (SourceKind.DOCUMENTS,)
    shown = [each["messages"][-1]["content"] for each in model.requests if not is_judge(each)]
    assert all(any(f"Part {n}." in prompt for prompt in shown) for n in range(8))


def test_an_empty_balance_pauses_the_run_and_a_top_up_resumes_it(
    bench: Bench, model: Scripted
) -> None:
    id = bench.approve(bench.deployed())
    with bench.commanding():
        account = bench.account
        account.settle(captured_micros=0, reserved_micros=4_998_800)
        bench.log.commit(account)
    run = bench.work(id, model.url)
    assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.BALANCE)
    assert 0 <= bench.account.available_micros < 1_200
    bench.grant(2_000_000)
    with bench.commanding() as use_case:
        use_case.resume(ACCOUNT_ID, id, None)
    run = bench.work(id, model.url)
    assert (run.status, run.counts.accepted) == (DONE, 20)
    assert bench.account.balance_micros == 7_000_000 - run.charged_micros


@pytest.mark.full
def test_the_maximum_cost_pauses_the_run(bench: Bench, model: Scripted) -> None:
    id = bench.approve(bench.deployed(), max_cost_micros=1_100)
    run = bench.work(id, model.url)
    assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.MAX_COST)
    assert run.charged_micros <= 1_100
    with bench.commanding() as use_case:
        use_case.resume(ACCOUNT_ID, id, 1_000_000)
    assert bench.work(id, model.url).counts.accepted == 20


def test_an_address_that_is_not_public_is_not_reached(bench: Bench, model: Scripted) -> None:
    run = bench.work(bench.approve(bench.external(model.url)), policy=TargetPolicy(http=True))
    assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.ENDPOINT)
    assert model.requests == []


def test_an_endpoint_without_its_key_after_a_restore_is_not_asked(
    bench: Bench, model: Scripted
) -> None:
    id = bench.approve(bench.external(model.url))
    with bench.pool.connection() as connection:
        connection.execute("DELETE FROM synthesis_endpoint_keys")
    run = bench.work(id)
    assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.ENDPOINT)
    assert model.requests == []


def test_a_lost_request_fails_the_run(bench: Bench, model: Scripted) -> None:
    id = bench.approve(bench.deployed())
    bench.artifacts.put(bench.synthesis(id).plan.request_ref, b"{}")
    run = bench.work(id, model.url)
    assert run.status is SynthesisStatus.FAILED
    assert events_of(bench, id)[-1].reason is SynthesisFailure.REQUEST_LOST


@pytest.mark.parametrize("cancelled", [False, True], ids=["lost", "cancelled"])
def test_a_run_that_ends_with_an_open_batch_releases_its_reserve(
    bench: Bench, model: Scripted, cancelled: bool
) -> None:
    id = bench.approve(bench.deployed())
    with bench.commanding(), bench.billing():
        synthesis = bench.synthesis(id)
        synthesis.start_batch(4, 1_000)
        bench.log.commit(synthesis)
    assert bench.account.reserved_micros == 1_000
    if cancelled:
        with bench.commanding() as use_case:
            use_case.cancel(ACCOUNT_ID, id)
    bench.artifacts.delete(bench.synthesis(id).plan.request_ref)
    run = bench.work(id, model.url)
    assert run.status is (SynthesisStatus.CANCELLED if cancelled else SynthesisStatus.FAILED)
    assert not run.needs_work
    assert bench.account.reserved_micros == 0
    assert model.requests == []


@pytest.mark.full
def test_a_run_ends_its_turn_if_others_wait(bench: Bench, model: Scripted) -> None:
    id, completed = bench.approve(bench.deployed(), examples=400), list[int]()
    with bench.billing():
        asyncio.run(one_turn(bench, id, model.url, lambda: completed.append(1)))
    run = bench.synthesis(id)
    assert len(completed) == run.batch
    assert (run.status, run.open_batch) == (SynthesisStatus.GENERATING, False)
    assert run.counts.attempts == 16 * run.batch == 16 * TURN_BATCHES


@pytest.mark.full
def test_a_turn_lasts_ten_times_as_long_as_the_load_of_its_run(
    bench: Bench, model: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    id, passed = bench.approve(bench.deployed(), examples=400), list[float]()

    def load(*arguments: Any) -> Run:
        passed.append(6.0)
        return load_run(*arguments)

    monkeypatch.setattr(generating, "load_run", load)
    monkeypatch.setattr(generating, "monotonic", lambda: sum(passed), raising=False)
    with bench.billing():
        asyncio.run(one_turn(bench, id, model.url, lambda: passed.append(10.0)))
    assert bench.synthesis(id).batch == 6


def test_a_run_that_is_given_up_pauses_and_releases_its_reserve(
    bench: Bench, model: Scripted
) -> None:
    id = bench.approve(bench.deployed())
    with bench.commanding(), bench.billing():
        synthesis = bench.synthesis(id)
        synthesis.start_batch(4, 1_000)
        bench.log.commit(synthesis)
    with bench.billing():
        assert asyncio.run(give_up(bench, id))
    run = bench.synthesis(id)
    assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.ERROR)
    assert not run.needs_work
    assert bench.account.reserved_micros == 0
    with bench.commanding() as use_case:
        use_case.resume(ACCOUNT_ID, id, None)
    assert bench.work(id, model.url).status is DONE


def test_a_paused_run_with_an_open_batch_sends_no_request(bench: Bench, model: Scripted) -> None:
    id = bench.approve(bench.deployed())
    with bench.commanding(), bench.billing():
        synthesis = bench.synthesis(id)
        synthesis.start_batch(4, 1_000)
        synthesis.pause()
        bench.log.commit(synthesis)
    run = bench.work(id, model.url, pace=replace(QUICK, look=0.2))
    assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.OWNER)
    assert not run.needs_work
    assert model.requests == []


def test_a_stopped_run_no_longer_needs_its_seed_dataset(bench: Bench, model: Scripted) -> None:
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    bench.artifacts.put("uploads/seed", json.dumps(chat).encode() + b"\n")
    with bench.commanding():
        seed = Dataset.uploaded(DATASET_ID, ACCOUNT_ID, "uploads/upload", "u" * 64, 100)
        seed.validate("uploads/seed", "s" * 64, Contents(1), "uploads/report")
        bench.log.commit(seed)

    def script(number: int, _: dict[str, Any]) -> Said:
        if number == 40:
            with bench.commanding() as use_case:
                use_case.pause(ACCOUNT_ID, id)
        return Said()

    model.script = script
    plan = {"seed_dataset_id": DATASET_ID, "seed_dataset_sha256": "s" * 64, "examples": 400}
    id = bench.approve(bench.deployed(), seeds=[chat], **plan)
    paused = bench.work(id, model.url)
    asked = len(model.requests)
    with bench.commanding() as use_case, bench.billing():
        seed = bench.log.load(Dataset, DATASET_ID)
        seed.delete(used_by=[])
        use_case.resume(ACCOUNT_ID, id, None)
        resumed = bench.synthesis(id)
        resumed.start_batch(4, 1_000)
        resumed.stop()
        bench.log.commit(seed, resumed)
    run = bench.work(id, model.url)
    assert (run.status, run.counts) == (DONE, paused.counts)
    assert bench.account.reserved_micros == 0
    assert len(model.requests) == asked


def test_a_stopped_run_keeps_its_examples(bench: Bench, model: Scripted) -> None:
    def script(number: int, _: dict[str, Any]) -> Said:
        if number == 40:
            with bench.commanding() as use_case:
                use_case.stop(ACCOUNT_ID, id)
        return Said()

    model.script = script
    id = bench.approve(bench.deployed(), examples=400)
    run = bench.work(id, model.url)
    assert run.status is DONE
    assert 16 <= run.counts.accepted < 60
    assert bench.account.reserved_micros == 0


KEY = UUID("0c000000-0000-4000-8000-000000000001")


BUDGETS = [
    BudgetName(BudgetPeriod.DAY),
    BudgetName(BudgetPeriod.MONTH),
    *(BudgetName(period, KEY) for period in BudgetPeriod),
]


def test_a_budget_limits_a_run(bench: Bench, model: Scripted, subtests: pytest.Subtests) -> None:
    generator = bench.deployed()
    for name in BUDGETS:
        with subtests.test(f"{name.period} of {'a key' if name.key_id else 'the account'}"):
            id = bench.approve(generator, actor=f"key:{KEY}")
            for limit in (1, 1_200):
                bench.set_budget(name, limit)
                run = bench.work(id, model.url)
                assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.BUDGET)
                assert (run.charged_micros > 0) == (limit > 1)
                assert run.charged_micros <= limit
                bench.set_budget(name, 1_000_000)
                with bench.commanding() as use_case:
                    use_case.resume(ACCOUNT_ID, id, None)
            run = bench.work(id, model.url)
            assert (run.status, run.counts.accepted) == (DONE, 20)
            assert bench.account.budgets[name].spent_micros == run.charged_micros
            assert bench.account.reserved_for(name.key_id) == 0
