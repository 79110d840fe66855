"""Dataset uploads and payments on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest

from domain.access.role import Role
from domain.core.aggregate import because
from domain.datasets.dataset import Dataset
from domain.training.token_lengths import TokenLengths
from gateway.cli.client import Client, Endpoint
from gateway.cli.exits import ExitCode
from infrastructure.artifacts import Artifacts
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.cli.conftest import CommandLine, Served
from tests.gateway.cli.test_commands import LINE, REPORT
from tests.polling import eventually


@pytest.fixture
def me(served: Served, platform: Platform) -> CommandLine:
    return served.as_person(platform.person())


def while_it_validates(
    me: CommandLine, platform: Platform, conclude: Callable[[Dataset], None]
) -> Thread:
    """Finish the validation of the only dataset while a command follows it."""

    def wait_and_conclude() -> None:
        with Client(Endpoint(me.url, me.key)) as client:
            eventually(lambda: client.get("/datasets")["data"] != [])
            (found,) = client.get("/datasets")["data"]
        with because(platform.cause):
            dataset = platform.log.load(Dataset, UUID(found["id"]))
            conclude(dataset)
            platform.log.commit(dataset)

    thread = Thread(target=wait_and_conclude)
    thread.start()
    return thread


def test_an_upload_is_followed_until_it_is_ready_and_counted(
    me: CommandLine, platform: Platform, tmp_path: Path
) -> None:
    platform.base_model()
    platform.project()
    file = tmp_path / "chats.jsonl"
    file.write_text(LINE)

    def accept(dataset: Dataset) -> None:
        dataset.validate("datasets/x/examples.jsonl", "a" * 64, 10, 1, "datasets/x/report.json")
        dataset.record_tokens(BASE_MODEL, "22", TokenLengths.of([50] * 10))

    validating = while_it_validates(me, platform, accept)
    dataset = me.read("datasets", "upload", str(file), "--name", "my chats")
    validating.join()
    assert (dataset["status"], dataset["name"]) == ("ready_for_training", "my chats")
    assert dataset["tokens"][0]["tokens"] == 500

    assert me.read("datasets", "delete", dataset["id"]) == {"id": dataset["id"], "deleted": True}
    assert me.refused("datasets", "show", dataset["id"], code=4)
    assert me.refused("datasets", "delete", dataset["id"], code=4)


def test_a_rejected_upload_prints_the_lines_and_exits_with_1(
    me: CommandLine, platform: Platform, tmp_path: Path
) -> None:
    Artifacts(platform.settings.artifacts).put("datasets/x/report.json", REPORT)
    file = tmp_path / "chats.jsonl"
    file.write_text(LINE)
    validating = while_it_validates(
        me, platform, lambda dataset: dataset.reject(3, "datasets/x/report.json")
    )
    told = me.run("datasets", "upload", str(file), code=ExitCode.FAILED)
    validating.join()
    assert "line 1: no JSON" in told
    missing = me.refused("datasets", "upload", str(tmp_path / "none.jsonl"), code=2)
    assert "'file'" in missing


def test_only_an_operator_confirms_a_payment(
    me: CommandLine, served: Served, platform: Platform
) -> None:
    operator = served.as_person(platform.person(Role.OPERATOR))
    payment = ("billing", "top-up", "25.00", "--reference", "transfer 17")
    assert me.refused(*payment, code=3)
    account = me.read("billing", "balance")["id"]
    for _ in range(2):
        told = operator.read(*payment, "--account", account)
        assert told["balance"]["text"] == "$25.00"
    assert "$25.00" in me.run("billing", "balance")
    wrong = operator.refused("billing", "top-up", "much", "--reference", "x", code=2)
    assert "amount: " in wrong
