"""Dataset uploads and payments on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest

from domain.access.role import Role
from gateway.cli.datasets import name_of
from gateway.cli.exits import ExitCode
from tests.builders.platform import Platform
from tests.gateway.cli.conftest import CommandLine, meanwhile
from tests.services.datasets.formats import table


@pytest.fixture
def me(url: str, platform: Platform) -> CommandLine:
    return CommandLine(url, platform.person().key)


def while_it_validates(me: CommandLine, conclude: Callable[[UUID], None]) -> Thread:
    """Finish the validation of the only dataset while a command follows it."""
    return meanwhile(lambda: conclude(UUID(me.only("/datasets")["id"])))


def test_an_upload_is_followed_until_it_is_ready_and_counted(
    me: CommandLine, platform: Platform, chats: str
) -> None:
    platform.base_model()
    platform.project()
    validating = while_it_validates(me, platform.validate)
    dataset = me.read("datasets", "upload", chats, "--name", "my chats")
    validating.join()
    assert (dataset["status"], dataset["name"]) == ("ready_for_training", "my chats")
    assert dataset["tokens"][0]["tokens"] == 500

    assert me.read("datasets", "delete", dataset["id"]) == {"id": dataset["id"], "deleted": True}
    for command in ("show", "delete"):
        assert me.refused("datasets", command, dataset["id"], code=4)


def test_a_rejected_upload_prints_the_lines_and_exits_with_1(
    me: CommandLine, platform: Platform, chats: str, tmp_path: Path
) -> None:
    validating = while_it_validates(me, platform.reject)
    shown = me.run("datasets", "upload", chats, code=ExitCode.FAILED)
    validating.join()
    assert "line 3: no JSON" in shown
    missing = me.refused("datasets", "upload", str(tmp_path / "none.jsonl"), code=2)
    assert "'file'" in missing


def test_columns_are_shown_and_changed(me: CommandLine, platform: Platform, tmp_path: Path) -> None:
    faq = tmp_path / "faq.csv"
    faq.write_bytes(table([{"id": "1", "q": "Hi?", "a": "Yes.", "n": "x"}] * 2))
    validating = while_it_validates(me, platform.validate_upload)
    assert "unknown_columns" in me.run("datasets", "upload", str(faq), "--json", code=1)
    validating.join()
    (rejected,) = me.read("datasets", "list")["data"]
    shown = me.run("datasets", "columns", rejected["id"])
    assert "columns of the file: id, q, a, n" in shown
    assert shown.count("No column is chosen for") == 1
    assert "a: Yes." in shown
    chosen = ("--column", "user=q", "--column", "assistant=a")
    new = me.read("datasets", "columns", rejected["id"], *chosen, "--no-follow")
    assert new["parent"] == rejected["id"]
    platform.validate_upload(UUID(new["id"]))
    platform.project()
    shown = me.run("datasets", "columns", new["id"])
    assert "user=q, assistant=a (chosen)" in shown
    assert "unused columns: id, n" in shown
    assert "assistant: Yes." in shown
    assert me.refused("datasets", "columns", new["id"], "--column", "user", code=2)


def test_the_sample_becomes_a_dataset(me: CommandLine) -> None:
    created = me.read("datasets", "from-sample", "--no-follow")
    assert me.read("datasets", "list")["data"] == [created]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.b.jsonl.gz", "a.b"),
        ("chats.v2.jsonl", "chats.v2"),
        ("data.zip", "data"),
        ("archive.gz", "archive"),
        ("noending", "noending"),
    ],
)
def test_a_dataset_has_the_name_of_its_file_without_endings(file: str, name: str) -> None:
    assert name_of(Path(file)) == name


def test_only_an_operator_confirms_a_payment(me: CommandLine, platform: Platform) -> None:
    operator = CommandLine(me.url, platform.person(Role.OPERATOR).key)
    payment = ("billing", "top-up", "25.00", "--reference", "transfer 17")
    assert me.refused(*payment, code=3)
    account = me.read("billing", "balance")["id"]
    for _ in range(2):
        shown = operator.read(*payment, "--account", account)
        assert shown["balance"]["text"] == "$25.00"
    assert "$25.00" in me.run("billing", "balance")
    wrong = operator.refused("billing", "top-up", "much", "--reference", "x", code=2)
    assert "amount: " in wrong
