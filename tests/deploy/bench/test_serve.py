"""The bench of serving: what it asks, how it reckons, and that it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.bench import serve
from deploy.bench.commands import commands
from deploy.bench.serve import Agreement, requests, speed
from services.serving.measured_serving import Turn
from tests.builders.tiny_model import make_tiny_model


def test_base_and_adapters_are_asked_in_turns_in_several_lengths() -> None:
    asked = requests(16)
    assert [chat.adapter for chat in asked[:4]] == [None, 0, 1, None]
    assert len({len(chat.messages) for chat in asked}) > 3
    assert all(chat.messages[-1]["role"] == "user" for chat in asked)
    assert asked == requests(16)


def test_answers_agree_up_to_the_first_token_that_differs() -> None:
    agreement = Agreement.of([((1, 2, 3, 4), (1, 2, 3, 4)), ((1, 2, 3, 4), (1, 9, 3, 4))])
    assert (agreement.same, agreement.answers) == (1, 2)
    assert (agreement.shared_tokens, agreement.tokens) == (5, 8)
    assert not agreement.whole


def test_speed_is_the_median_over_the_turns() -> None:
    turns = [
        Turn(seconds=seconds, first_seconds=(0.1, 0.1), answers=((1, 2), (3, 4)))
        for seconds in (1.0, 2.0, 8.0)
    ]
    assert speed(turns) == 2.0


@pytest.mark.full
def test_it_runs_and_float32_answers_are_those_of_peft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_model(tmp_path / "model")
    monkeypatch.setattr(serve, "HISTORIES", (0,))
    monkeypatch.setattr(serve, "AIM", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = f"--model {model} --precision fp32 --concurrent 3 --tokens 4 --repeats 1".split()
    done = CliRunner().invoke(commands, ["serve", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "fp32: 3 of 3 answers equal the libraries' token for token" in said
