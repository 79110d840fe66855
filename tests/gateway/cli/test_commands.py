"""The account holder's commands against a gateway process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from infrastructure.artifacts.store import Artifacts
from tests.builders.platform import BASE_MODEL, REJECTION, Platform
from tests.gateway.cli.conftest import CommandLine, Owner, ecolink, plain


def test_every_command(me: Owner, platform: Platform, chats: str) -> None:
    own = platform.dataset(me.person)
    Artifacts(platform.settings.artifacts).put("datasets/x/report.json", REJECTION)
    platform.project()

    uploaded = me.read("datasets", "upload", chats, "--no-follow")
    assert uploaded["name"] == "chats"
    assert len(me.read("datasets", "list")["data"]) == 3
    assert "ready_for_training" in me.run("datasets", "show", me.dataset)
    assert "line 3: no JSON" in me.run("datasets", "report", me.dataset)
    assert BASE_MODEL in me.run("models", "list")

    assert "$0.60" in me.run("jobs", "gpus")
    assert "ftjob-" in me.run(*me.launch)
    job = me.read(
        *me.launch,
        *("--num-train-epochs", "1", "--lora-dropout", "0", "--target-modules", "q_proj"),
        *("--schedule", "linear", "--validation-dataset", str(own)),
    )
    shown = me.read("jobs", "show", job["id"])
    chosen = {"dropout": 0, "target_modules": ["q_proj"], "lora_r": 16, "schedule": "linear"}
    assert shown["hyperparameters"].items() >= chosen.items()
    assert shown["validation_dataset_id"] == str(own)
    like = ("jobs", "launch", "--like", job["id"])
    again = me.read("jobs", "show", me.read(*like, "--epochs", "2", "--use-dora")["id"])
    changed = {"epochs": 2, "use_dora": True}
    assert again["hyperparameters"] == shown["hyperparameters"] | changed
    for same in ("dataset_id", "validation_dataset_id", "base_model", "gpu_type", "region"):
        assert again[same] == shown[same]
    other = me.read(*like, "--dataset", str(own), "--validation-dataset", me.dataset)
    assert me.read("jobs", "show", other["id"])["dataset_id"] == str(own)
    order = ("--suffix", "mine", "--deploy", "--max-cost", "1.25")
    ordered = ("jobs", "launch", "--like", me.read(*me.launch, *order)["id"])
    plain = me.read(*ordered, "--no-deploy", "--without", "suffix", "--without", "max-cost")
    kept = me.read("jobs", "show", me.read(*ordered)["id"])
    assert (kept["model"] or kept["max_cost"]["micros"]) == 1_250_000
    usual = me.read("jobs", "show", plain["id"])
    assert usual["max_cost"] is None
    assert usual["pay_at_most"]["micros"] == usual["estimate"]["high"]["micros"]
    assert me.read("templates", "save", "Mine", "--job", job["id"])["name"] == "Mine"
    assert "Epochs" in me.run("templates", "show", "Mine")
    used = ("jobs", "launch", "--template", "Mine", "--without", "lora-dropout", "--r", "8")
    shown = me.read("jobs", "show", me.read(*used)["id"])["hyperparameters"]
    assert (shown["epochs"], shown["dropout"], shown["lora_r"]) == (1, 0.05, 8)
    assert me.read("templates", "rename", "Mine", "Other")["name"] == "Other"
    assert "Other" in me.run("templates", "list")
    me.run("templates", "delete", "Other")
    assert me.read("templates", "list")["data"] == []
    listed = me.run("jobs", "list")
    for named in (job["id"], job["id"][6:14], "dataset", BASE_MODEL, "waiting for a GPU"):
        assert named in listed
    assert "Epochs 1" in me.run("jobs", "show", job["id"])
    assert me.read("jobs", "logs", job["id"]) == {"data": [], "deleted_after_days": None}
    assert me.read("jobs", "max-cost", job["id"], "2.50")["max_cost"]["text"] == "$2.50"
    assert me.read("jobs", "max-cost", job["id"], "none")["max_cost"] is None
    capped = me.read(*me.launch, "--max-cost", "1.25")
    assert capped["max_cost"]["micros"] == 1_250_000
    assert "JobApproved" in me.run("jobs", "events", job["id"])
    for nothing in ("evaluations", "checkpoints"):
        assert len(me.run("jobs", nothing, job["id"]).splitlines()) == 1
    assert "$10.00" in me.run("billing", "balance")
    assert "credit granted" in me.run("billing", "ledger")
    assert me.read("billing", "ledger", "--job", job["id"])["data"] == []
    assert "$250.00" in me.run("billing", "budget", "set", "month", "250")
    (budget,) = me.read("billing", "budget", "list")["data"]
    assert (budget["period"], budget["used_percent"]) == ("month", 0)
    assert "no budgets" in me.run("billing", "budget", "remove", "month")
    key = me.read("keys", "list")["data"][0]
    assert f"eco_…{key['hint']}" in me.run(
        "billing", "budget", "set", "total", "50", "--key", key["id"]
    )
    assert "no budgets" in me.run("billing", "budget", "remove", "total", "--key", key["id"])
    assert "no payments by card" in me.run("billing", "payments")
    assert not me.read("billing", "auto-top-up", "show")["card_saved"]
    assert not me.read("billing", "auto-top-up", "off", "--remove-card")["enabled"]
    assert "by card are disabled" in me.refused("billing", "pay", "25", code=3)


def test_a_dry_run_shows_fit_estimate_and_gates(me: Owner, platform: Platform) -> None:
    platform.spend(me.person)
    dry_run = (*me.launch, "--dry-run")
    quote = me.read(*dry_run, code=5)
    missing = quote["balance"]["missing"]
    drawn = me.run(*dry_run, code=5)
    for shown in (quote["fit"]["banner"], "headroom", "model load", "open   capacity: 2 free"):
        assert shown in drawn
    assert "closed balance: $0.00 now" in drawn
    assert f"-{missing['text']}" in drawn
    platform.credit(me.person, missing["micros"])
    assert "open   balance" in me.run(*dry_run)
    platform.occupy(1)
    two = me.run(*dry_run, "--gpu-count", "2", code=5)
    assert re.search(r"closed +capacity: 1 .* 2\b", two)
    assert "--wait" in two
    platform.occupy(1)
    assert re.search(r"closed +capacity: 0 .* 1\b", me.run(*dry_run, code=5))
    waits = me.run(*dry_run, "--wait", "--max-sequence-length", "45")
    assert re.search(r"open +capacity: 0 .* 1\b", waits)
    assert re.search(r"warning: .*\b50 of 100\b", waits)
    assert "--suffix" in me.refused(*dry_run, "--suffix", "a b", code=2)
    assert me.read("jobs", "list")["data"] == []


@pytest.mark.full
def test_a_refusal_names_the_option_or_id_and_has_an_exit_code(
    me: Owner, platform: Platform
) -> None:
    platform.spend(me.person)
    base = ("jobs", "launch", "--base-model", BASE_MODEL, "--dataset")
    validating = str(platform.dataset(me.person, ready=False))
    theirs = str(platform.dataset(platform.person()))
    platform.project()
    for command, code, named in (
        (("jobs", "show", "ftjob-1"), 2, "job: "),
        (("jobs", "show"), 2, "job"),
        (("jobs", "show", "nope"), 2, "nope"),
        (("datasets", "show", "nope"), 2, "nope"),
        ((*me.launch, "--lora-r", "0"), 2, "--lora-r: "),
        ((*me.launch, "--gpu-type", "abacus"), 2, "--gpu-type: "),
        ((*me.launch, "--max-sequence-length", "40"), 2, "--max-sequence-length: "),
        ((*me.launch, "--dry-run", "--watch"), 2, "--watch"),
        (("jobs", "launch", "--dataset", validating), 2, "--like"),
        (("jobs", "launch", "--like", "ftjob-1", "--template", "a"), 2, "--template"),
        (("jobs", "launch", "--template", "a", "--without", "nope"), 2, "nope"),
        (("jobs", "launch", "--template", "missing"), 1, "missing"),
        ((*me.launch, "--without", "suffix"), 2, "--without"),
        (("jobs", "launch", "--like", f"ftjob-{'0' * 32}"), 4, ""),
        (me.launch, 5, "$"),
        ((*base, theirs), 4, ""),
        ((*base, validating), 6, "--dataset: "),
        (("jobs", "cancel", f"ftjob-{'0' * 32}"), 4, ""),
    ):
        assert named in me.refused(*command, code=code)
    platform.credit(me.person, 10_000_000)
    platform.occupy(2)
    assert "--gpu-type: " in me.refused(*me.launch, code=5)
    assert CommandLine(me.url, "eco_wrong").refused("jobs", "list", code=3)


def test_nothing_is_cut_in_a_pipe_and_ids_never_on_a_terminal(
    me: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = me.start().name
    commands = (
        (("jobs", "list"), job),
        (("jobs", "show", job), job),
        (("datasets", "list"), me.dataset),
        (("keys", "list"), str(me.person.key_id)),
    )
    for arguments, name in commands:
        shown = me.run(*arguments)
        assert name in shown
        assert "\x1b" not in shown
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    for arguments, name in commands:
        shown = me.run(*arguments)
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


def test_an_unreachable_gateway_is_named() -> None:
    unreachable = CommandLine("http://127.0.0.1:9", "eco_x")
    assert "http://127.0.0.1:9" in unreachable.refused("jobs", "list", code=7)
