"""`ecolink jobs launch` against a gateway."""

from __future__ import annotations

import pytest

from domain.datasets.dataset import DatasetKind
from gateway.cli import launching, terminal
from gateway.cli.exits import ExitCode
from tests.builders.platform import Platform
from tests.gateway.cli.conftest import Owner, meanwhile
from tests.polling import eventually


def test_another_method_has_its_own_defaults(me: Owner, platform: Platform) -> None:
    pairs = str(platform.dataset(me.person, kind=DatasetKind.PREFERENCES))
    platform.project()

    def hyperparameters(*arguments: str) -> dict[str, object]:
        name = me.read(*arguments)["id"]
        return {"id": name} | me.read("jobs", "show", name)["hyperparameters"]

    chats = hyperparameters(*me.launch, "--epochs", "1")
    like = ("jobs", "launch", "--like", str(chats["id"]), "--dataset", pairs, "--method", "dpo")
    preferred = hyperparameters(*like)
    chosen = [preferred[name] for name in ("learning_rate", "beta", "epochs")]
    assert chosen == [2e-5, 0.1, 1]
    assert hyperparameters(*like, "--learning-rate", "1e-4")["learning_rate"] == 1e-4
    back = ("jobs", "launch", "--like", str(preferred["id"]), "--dataset", me.dataset)
    supervised = hyperparameters(*back, "--method", "supervised")
    assert (supervised["learning_rate"], supervised.get("beta")) == (2e-4, None)
    assert hyperparameters(*back, "--without", "method")["learning_rate"] == 2e-4


def test_a_launch_with_wait_follows_the_count(
    me: Owner, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.1)
    dataset_id = platform.dataset(me.person, ready=False)
    platform.validate(dataset_id, counted=False)
    platform.project()
    launch = ["jobs", "launch", "--dataset", str(dataset_id), *me.launch[4:]]
    me.refused(*launch, code=ExitCode.WRONG_STATE)

    def count_when_requested() -> None:
        eventually(lambda: "JobRequested" in platform.topics())
        platform.count(dataset_id)

    counting = meanwhile(count_when_requested)
    started = me.result(*launch, "--wait")
    counting.join()
    assert "still counting" in started.stderr
    assert "ftjob-" in started.stdout


def test_warnings_come_before_the_approval(me: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    high = (*me.launch, "--learning-rate", "0.5")
    rate = "warning: The learning rate 0.5"
    started = me.result(*high)  # without a terminal, there is no question
    assert rate in started.stderr
    assert rate not in started.stdout
    assert len(me.read("jobs", "list")["data"]) == 1
    monkeypatch.setattr(terminal, "asks", lambda: True)
    refused = me.result(*high, stdin="n\n", code=1)
    assert refused.stderr.index(rate) < refused.stderr.index("Start the job anyway?")
    assert "ftjob-" not in refused.stdout
    assert len(me.read("jobs", "list")["data"]) == 1
    assert "ftjob-" in me.result(*high, stdin="y\n").stdout
    assert "anyway" not in me.result(*high, "--yes", stdin="").stderr
    assert "anyway" not in me.result(*me.launch, stdin="").stderr
    assert len(me.read("jobs", "list")["data"]) == 4
