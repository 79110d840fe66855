"""A complete EcoLink for tests: every process, a tiny base model and accounts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from deploy.demo.account import (
    DemoAccount,
    acting_for_the_demo,
    demo_account,
    fresh_account,
    sign_in_link,
    top_up,
)
from deploy.demo.preparing import await_deployment
from deploy.local import stack
from deploy.local.home import Home
from deploy.local.pods import living_pods
from deploy.local.state import ChildState
from domain.billing.account import Account
from gateway.cli.client import Client, Endpoint, Refused
from gateway.http.errors import NotYetVisible
from infrastructure.artifacts.store import Artifacts
from infrastructure.settings import Settings
from tests.builders.examples import revision
from tests.builders.tiny_model import make_tiny_model
from tests.polling import eventually

TIMEOUT_SECONDS = 300.0  # generous, because the machine may be busy

GPUS = {"region": "local", "gpu_type": "cpu"}
"""Region and GPU type of a job. Without them, EcoLink picks the cheapest."""


class PatientClient(Client):
    """A client that retries while read models are late."""

    def get(self, path: str, **params: str | int | None) -> dict[str, Any]:
        """GET, with retries."""
        ask = super().get
        return _once_visible(lambda: ask(path, **params))

    def post(
        self, path: str, body: dict[str, Any], *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """POST, with retries. Every POST of these tests is safe to repeat."""
        ask = super().post
        return _once_visible(lambda: ask(path, body, idempotency_key=idempotency_key))


def _once_visible(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    def answers() -> list[dict[str, Any]]:
        try:
            return [ask()]
        except Refused as refused:
            if refused.problem.get("code") != NotYetVisible.code:
                raise
            return []

    (answer,) = eventually(answers)
    return answer


@dataclass(frozen=True)
class EcoLinkUnderTest:
    """A running stack, and a client of one of its accounts."""

    settings: Settings
    client: Client
    account: DemoAccount

    @property
    def key(self) -> str:
        """The account's API key."""
        return self.account.key

    @property
    def artifacts(self) -> Artifacts:
        """The stack's artifact store."""
        return Artifacts(self.settings.artifacts)

    @contextmanager
    def newcomer(self, dollars: float = 25) -> Iterator[EcoLinkUnderTest]:
        """Return the stack with a client of a new account with this balance."""
        account = fresh_account(self.settings, "newcomer")
        assert self.settings.gateway_url is not None
        with PatientClient(Endpoint(self.settings.gateway_url, account.key)) as client:
            theirs = EcoLinkUnderTest(self.settings, client, account)
            theirs.top_up(dollars)
            yield theirs

    def top_up(self, dollars: float) -> None:
        """Confirm a payment, if any, and wait until the balance includes it."""
        if dollars == 0:
            return
        micros = round(dollars * 1_000_000)
        before = self.balance_micros()
        top_up(self.settings, self.account.account_id, micros, f"test {uuid4()}")
        eventually(lambda: self.balance_micros() >= before + micros)

    def balance_micros(self) -> int:
        """Return the balance as the account's page shows it."""
        return self.client.get("/account")["balance"]["micros"]

    def sign_in_link(self) -> str:
        """Return a one-time link that signs in as the account."""
        return sign_in_link(self.settings, self.account)

    def dataset(self, folder: Path, examples: int) -> str:
        """Upload some small chats and wait until they are ready and counted. Return the ID."""
        path = folder / "chats.jsonl"
        path.write_text("".join(json.dumps(_chat(n)) + "\n" for n in range(examples)))
        uploaded = self.client.upload(path, "chats")
        eventually(lambda: self.client.get(f"/datasets/{uploaded['id']}")["tokens"] != [])
        return uploaded["id"]

    def approve(self, dataset: str, gpu_count: int = 1, **hyperparameters: Any) -> str:
        """Approve a job on the tiny base model. Return its path in the API."""
        body = {
            "dataset": dataset,
            "base_model": "tiny",
            **GPUS,
            "gpu_count": gpu_count,
            "hyperparameters": hyperparameters,
            "wait": True,
            "max_cost": None,
        }
        job = self.client.post("/jobs", body, idempotency_key=str(uuid4()))
        return f"/jobs/{job['id']}"

    def events(self, path: str, topic: str) -> list[dict[str, Any]]:
        """Return the fields of a job's events of one topic, in order."""
        timeline = self.client.get(f"{path}/timeline")["data"]
        return [event["fields"] for event in timeline if event["topic"] == topic]

    def await_events(self, path: str, topic: str, count: int) -> list[dict[str, Any]]:
        """Wait until a job has this many events of a topic."""
        eventually(lambda: len(self.events(path, topic)) >= count, TIMEOUT_SECONDS)
        return self.events(path, topic)

    def await_status(self, path: str, status: str) -> dict[str, Any]:
        """Wait until a job is in a state and all of its meters are closed."""

        def reached() -> bool:
            job = self.client.get(path)
            closed = self.events(path, "MeterClosed")
            return job["status"] == status and len(closed) == job["segment"]

        eventually(reached, TIMEOUT_SECONDS)
        return self.client.get(path)

    def await_end(self, path: str) -> dict[str, Any]:
        """Wait until a job is registered or failed and all of its meters are closed."""

        def ended() -> bool:
            job = self.client.get(path)
            closed = self.events(path, "MeterClosed")
            billed = sum(fields["billed_seconds"] for fields in closed)
            settled = len(closed) == job["segment"] and job["billed_seconds"] == billed
            return settled and job["status"] in ("registered", "failed")

        eventually(ended, TIMEOUT_SECONDS)
        return self.client.get(path)

    def trainer(self) -> psutil.Process:
        """Return the trainer process of the only running pod. It is the child of the pod's shim."""
        (shim,) = living_pods(Home(self.settings.home))
        (child,) = shim.children()
        return child

    def kill(self, name: str) -> None:
        """Kill the process of a role with SIGKILL, and wait until the supervisor restarts it."""
        before = self._child(name)
        assert before.pid is not None
        psutil.Process(before.pid).kill()
        eventually(
            lambda: (
                (now := self._child(name)).state is ChildState.RUNNING
                and now.restarts > before.restarts
            ),
            TIMEOUT_SECONDS,
        )

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Stop the process of a role with SIGSTOP during the block."""
        process = psutil.Process(self._child(name).pid)
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def spend_all_but(self, seconds: int, job: str) -> None:
        """Spend the balance except for some seconds of a job, as if by the account's other jobs."""
        rate = self.client.get(job)["rate_per_hour"]["micros"]
        with acting_for_the_demo(self.settings) as use_cases:
            account = use_cases.log.load(Account, self.account.account_id)
            spent = account.available_micros - rate * seconds // 3600
            account.settle(captured_micros=spent, reserved_micros=spent)
            use_cases.log.commit(account)

    def _child(self, name: str) -> Any:
        found = stack.state(self.settings.home)
        assert found is not None
        return next(child for child in found.children if child.runs(name))


def _chat(n: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"What is {n} plus {n}?"},
            {"role": "assistant", "content": f"It is {2 * n}."},
        ]
    }


@contextmanager
def running_ecolink(folder: Path, settings: Settings) -> Iterator[EcoLinkUnderTest]:
    """Run a stack with the tiny base model and a client of its demo account."""
    settings.home.chmod(0o755)
    model = make_tiny_model(folder / "tiny")
    with ExitStack() as running:
        with pytest.MonkeyPatch.context() as environment:
            # A second thread does not speed up a tiny model, and takes a core from others.
            environment.setenv("OMP_NUM_THREADS", "1")
            started = running.enter_context(stack.up(settings))
        manifest = Artifacts(started.settings.artifacts).put_directory("models/tiny", model)
        with acting_for_the_demo(started.settings) as use_cases:
            use_cases.import_base_model("tiny", revision(manifest_sha256=manifest.sha256))
        await_deployment(started.settings, "tiny")
        account = demo_account(started.settings)
        assert started.settings.gateway_url is not None
        with PatientClient(Endpoint(started.settings.gateway_url, account.key)) as client:
            yield EcoLinkUnderTest(started.settings, client, account)
