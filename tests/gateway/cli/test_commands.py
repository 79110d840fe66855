"""The account holder's commands against a gateway process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from typer.testing import Result

from infrastructure.artifacts import Artifacts
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.cli.conftest import CommandLine, Served, ecolink, plain

LINE = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
REPORT = (
    b'{"status": "rejected", "examples": 0, "duplicates": 0, "lines": 1, "bytes": 5,'
    b' "warnings": [], "errors": [{"line": 1, "code": "malformed_json", "message": "no JSON"}],'
    b' "error_count": 3}'
)


def test_every_command(served: Served, platform: Platform, tmp_path: Path) -> None:
    person = platform.person(dollars=3)
    platform.base_model()
    ready, own = platform.dataset(person), platform.dataset(person)
    Artifacts(platform.settings.artifacts).put("datasets/x/report.json", REPORT)
    platform.project()
    file = tmp_path / "chats.jsonl"
    file.write_text(LINE)
    me = served.as_person(person)
    launch = ("jobs", "launch", "--dataset", str(ready), "--base-model", BASE_MODEL)

    uploaded = me.read("datasets", "upload", str(file), "--no-follow")
    assert uploaded["name"] == "chats"
    assert len(me.read("datasets", "list")["data"]) == 3
    assert "ready_for_training" in me.run("datasets", "show", str(ready))
    told = me.run("datasets", "report", str(ready))
    assert "line 1: no JSON" in told
    assert BASE_MODEL in me.run("models", "list")

    assert "$0.60" in me.run("jobs", "gpus")
    assert "ftjob-" in me.run(*launch)
    job = me.read(
        *launch,
        *("--epochs", "1", "--dropout", "0", "--target-modules", "q_proj"),
        *("--schedule", "linear", "--validation-dataset", str(own)),
    )
    shown = me.read("jobs", "show", job["id"])
    assert shown["hyperparameters"]["dropout"] == 0
    assert shown["hyperparameters"]["target_modules"] == ["q_proj"]
    assert shown["hyperparameters"]["lora_r"] == 16
    assert shown["hyperparameters"]["schedule"] == "linear"
    assert shown["validation_dataset_id"] == str(own)
    listed = me.run("jobs", "list")
    assert job["id"] in listed
    for named in (job["id"].removeprefix("ftjob-")[:8], "dataset", BASE_MODEL):
        assert named in listed
    assert "waiting for a GPU" in listed
    assert "Epochs 1" in me.run("jobs", "show", job["id"])
    assert me.read("jobs", "logs", job["id"]) == {"data": [], "deleted_after_days": None}
    assert "JobApproved" in me.run("jobs", "events", job["id"])
    for nothing in ("evaluations", "checkpoints"):
        assert len(me.run("jobs", nothing, job["id"]).splitlines()) == 1
    assert "$3.00" in me.run("billing", "balance")
    assert "credit granted" in me.run("billing", "ledger")
    assert me.read("billing", "ledger", "--job", job["id"])["data"] == []


def test_an_invalid_id_prints_an_example(served: Served, platform: Platform) -> None:
    me = served.as_person(platform.person())
    for refusal in (
        me.refused("jobs", "show", "nope", code=2),
        me.refused("datasets", "show", "nope", code=2),
    ):
        assert "nope" in refusal


def test_a_dry_run_shows_fit_estimate_and_gates(served: Served, platform: Platform) -> None:
    person = platform.person()
    platform.base_model()
    ready = platform.dataset(person)
    platform.project()
    me = served.as_person(person)
    dry_run = (
        *("jobs", "launch", "--dataset", str(ready), "--base-model", BASE_MODEL),
        "--dry-run",
    )
    quote = me.read(*dry_run, code=5)
    missing = quote["balance"]["missing"]
    drawn = me.run(*dry_run, code=5)
    for shown in (quote["fit"]["banner"], "headroom", "model load", "open   capacity: 2 free"):
        assert shown in drawn
    assert "closed balance: $0.00 now" in drawn
    assert f"-{missing['text']}" in drawn
    platform.credit(person, missing["micros"])
    assert "open   balance" in me.run(*dry_run)
    platform.occupy(1)
    two = me.run(*dry_run, "--gpu-count", "2", code=5)
    assert re.search(r"closed +capacity: 1 .* 2\b", two)
    assert "--wait" in two
    platform.occupy(1)
    assert re.search(r"closed +capacity: 0 .* 1\b", me.run(*dry_run, code=5))
    waits = me.run(*dry_run, "--wait")
    assert re.search(r"open +capacity: 0 .* 1\b", waits)
    assert "--suffix" in me.refused(*dry_run, "--suffix", "a b", code=2)
    assert me.read("jobs", "list")["data"] == []


def test_truncation_has_a_warning_and_is_refused_without_trainable_tokens(
    served: Served, platform: Platform
) -> None:
    person = platform.person(dollars=5)
    platform.base_model()
    ready = platform.dataset(person)
    platform.project()
    me = served.as_person(person)
    launch = ("jobs", "launch", "--dataset", str(ready), "--base-model", BASE_MODEL)
    cut = (*launch, "--max-sequence-length", "45")
    for shown in (me.run(*cut, "--dry-run"), me.run(*cut)):
        assert re.search(r"\b50 of 100 .*50%", " ".join(shown.split()))
    for command in (launch, (*launch, "--dry-run")):
        refused = me.refused(*command, "--max-sequence-length", "40", code=2)
        assert "--max-sequence-length" in refused


def test_each_refusal_is_one_sentence_with_an_exit_code(served: Served, platform: Platform) -> None:
    person = platform.person()
    platform.base_model()
    ready, validating = platform.dataset(person), platform.dataset(person, ready=False)
    theirs = platform.dataset(platform.person())
    platform.project()
    me = served.as_person(person)
    base = ("--base-model", BASE_MODEL)
    launch = ("jobs", "launch", *base, "--dataset", str(ready))

    assert "job: " in me.refused("jobs", "show", "ftjob-1", code=2)
    assert "job" in me.refused("jobs", "show", code=2)
    told = me.refused(*launch, "--lora-r", "0", "--gpu-type", "abacus", code=2)
    assert "--lora-r: " in told
    assert "--gpu-type: " in told
    assert "--watch" in me.refused(*launch, "--dry-run", "--watch", code=2)
    assert me.refused(*launch, code=5)
    assert me.refused("jobs", "launch", *base, "--dataset", str(theirs), code=4)
    assert "--dataset: " in me.refused(
        "jobs", "launch", *base, "--dataset", str(validating), code=6
    )
    assert me.refused("jobs", "cancel", f"ftjob-{'0' * 32}", code=4)
    platform.credit(person, 10_000_000)
    platform.occupy(2)
    assert "--gpu-type: " in me.refused(*launch, code=5)
    stranger = CommandLine(served.url, "eco_wrong")
    assert stranger.refused("jobs", "list", code=3)


def test_nothing_is_cut_in_a_pipe_and_ids_never_on_a_terminal(
    served: Served, platform: Platform
) -> None:
    person = platform.person(dollars=3)
    platform.base_model()
    ready = platform.dataset(person)
    platform.project()
    me = served.as_person(person)
    me.run("jobs", "launch", "--dataset", str(ready), "--base-model", BASE_MODEL)
    job = me.read("jobs", "list")["data"][0]["id"]
    for arguments in (("jobs", "list"), ("jobs", "show", job), ("jobs", "events", job)):
        assert job in me.run(*arguments) or arguments[1] == "events"
        assert "\x1b" not in me.run(*arguments)

    def on_a_terminal(*arguments: str) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TTY_COMPATIBLE", "1")
            return ecolink("--url", served.url, "--key", person.key, *arguments)

    for arguments, name in (
        (("jobs", "list"), job),
        (("datasets", "list"), str(ready)),
        (("jobs", "show", job), job),
        (("keys", "list"), str(person.key_id)),
    ):
        shown = on_a_terminal(*arguments).output
        assert name in shown
        assert "\x1b[" in shown
        assert all(cell_len(line) <= 80 for line in plain(shown).splitlines())


def test_without_a_stack_the_error_names_the_start_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOLINK_HOME", str(tmp_path))
    result = ecolink("jobs", "list")
    assert result.exit_code == 7
    assert "ecolink up" in result.output


def test_an_unreachable_gateway_exits_with_7() -> None:
    result = ecolink("--url", "http://127.0.0.1:9", "--key", "eco_x", "jobs", "list")
    assert result.exit_code == 7
    assert "http://127.0.0.1:9" in result.output
    assert result.stdout == ""
