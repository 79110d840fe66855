"""The part of a run that stays in memory."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from extensions.synthesis.process.run import load_run
from tests.extensions.synthesis.process.bench import Bench
from tests.scripted_model import Said, Scripted, written

pytestmark = pytest.mark.full

TEXT = "long and wordy " * 4_000


@pytest.mark.parametrize("accepted", [True, False])
def test_a_run_keeps_no_texts_of_completed_batches(
    bench: Bench, model: Scripted, accepted: bool
) -> None:
    def say(_: int, body: dict[str, object]) -> Said:
        turn = {"user": "What?", "assistant": f"{written(body)} {TEXT}."}
        return Said(json.dumps({"turns": [turn]}) if accepted else TEXT)

    model.script = say
    id = bench.approve(bench.external(model.url), judged=False, answer_tokens=4096, examples=16)
    run = bench.work(id)
    assert run.counts.attempts == 16
    assert (run.counts.accepted == 16) is accepted
    size = sum(len(bench.artifacts.get(each.ref)) for each in run.files)
    assert size > 16 * len(TEXT)
    load_run(bench.log, bench.artifacts, run)
    tracemalloc.start()
    try:
        loaded = load_run(bench.log, bench.artifacts, run)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(loaded.numbers(3)) == 3
    assert kept < size / 3
