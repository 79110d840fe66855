"""Dataset uploads and payments on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest
from psycopg_pool import ConnectionPool

from domain.access.role import Role
from gateway.cli.datasets import name_of
from gateway.cli.exits import ExitCode
from infrastructure.datasets.comparisons import ComparisonKind, Key, request_comparison
from infrastructure.postgres.store import Connection
from tests.builders.planted import Writer, line_of
from tests.builders.platform import Platform
from tests.gateway.cli.conftest import CommandLine, meanwhile
from tests.services.datasets.conftest import Service
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


def test_findings_versions_and_comparisons_are_printed(
    me: CommandLine, platform: Platform, pool: ConnectionPool[Connection], tmp_path: Path
) -> None:
    service, chats = Service(platform, pool), [Writer(seed).chat() for seed in range(6)]
    near = [chats[0][0], chats[0][1].replace(".", "!", 1)]

    def uploaded(name: str, given: list[list[str]]) -> str:
        file = tmp_path / name
        file.write_bytes(b"".join(line_of(chat) + b"\n" for chat in given))
        return me.read("datasets", "upload", str(file), "--no-follow")["id"]

    train = uploaded("train.v1.jsonl.gz", [chats[0], near, *chats[1:4]])
    validation = uploaded("validation.jsonl", chats[3:])
    assert me.refused("datasets", "quality", train, "--no-follow", code=6)
    service.catch_up()
    service.analyze()
    shown = me.run("datasets", "quality", train)
    assert "Near-duplicates: 1 (lines 2)" in shown
    assert "line 2, like line 1 (" in shown
    chosen = ("--near-duplicates", "--similarity", "0.6")
    new = me.read("datasets", "filter", train, *chosen, "--no-follow")
    assert (new["name"], new["filters"]["similarity"]) == ("train.v1 (filtered)", 0.6)
    service.catch_up()
    origin = "Removes near-duplicates, from a similarity of 60%."
    assert origin in me.run("datasets", "versions", train)
    assert origin in me.run("datasets", "show", new["id"])
    assert "near duplicate 1" in me.run("datasets", "show", train)
    assert "refusl is not allowed" in me.refused(
        "datasets", "filter", train, "--answer", "refusl", code=2
    )
    keys: list[Key] = [
        (UUID(train), UUID(validation), ComparisonKind.CONTAMINATION),
        (UUID(new["id"]), UUID(validation), ComparisonKind.DIFFERENCE),
        (UUID(new["id"]), UUID(train), ComparisonKind.DIFFERENCE),
    ]
    with pool.connection() as connection:
        for key in keys:
            request_comparison(connection, service.dataset(UUID(train)).account_id, key)
    service.compare()
    shown = me.run("datasets", "quality", train, "--validation", validation)
    assert "1 of 3 validation examples are also in the dataset" in shown
    assert "4 unchanged, 0 added, 1 removed" in me.run("datasets", "diff", new["id"])
    other = me.read("datasets", "diff", new["id"], "--base", validation)
    assert (other["base"], other["result"]["unchanged"]) == (validation, 1)


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
