"""Nothing but the `openai` client, from a file to a chat with what was trained on it."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from deploy.demo.account import demo_account
from tests.openai_objects import whole
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def client(ecolink: EcoLinkUnderTest) -> OpenAI:
    url = ecolink.settings.gateway_url
    return OpenAI(base_url=f"{url}/v1", api_key=demo_account(ecolink.settings).key)


def uploaded(client: OpenAI, folder: Path, examples: int) -> str:
    path = folder / "chats.jsonl"
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} plus {n}?"},
                {"role": "assistant", "content": f"It is {2 * n}."},
            ]
        }
        for n in range(examples)
    ]
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    file = whole(client.files.create(file=path, purpose="fine-tune"))
    assert client.files.content(file.id).content == path.read_bytes()
    return file.id


def until(
    client: OpenAI, job: FineTuningJob, reached: Callable[[FineTuningJob], bool]
) -> FineTuningJob:
    """Poll as a user does, who has more to do than to poll."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not reached(shown := whole(client.fine_tuning.jobs.retrieve(job.id))):
        assert time.monotonic() < deadline, shown
        time.sleep(0.2)
    return shown


def is_(status: str) -> Callable[[FineTuningJob], bool]:
    return lambda job: job.status == status


def metrics_of(client: OpenAI, job: FineTuningJob) -> list[Any]:
    events = client.fine_tuning.jobs.list_events(job.id, limit=100)
    return [whole(each).data for each in events if each.type == "metrics"]


@pytest.mark.full
def test_a_job_is_paused_goes_on_succeeds_and_its_model_answers(
    client: OpenAI, tmp_path: Path
) -> None:
    jobs = client.fine_tuning.jobs
    job = whole(
        jobs.create(
            model="tiny",
            training_file=uploaded(client, tmp_path, examples=100),
            hyperparameters={"n_epochs": 45, "batch_size": 4},
            suffix="sums",
            metadata={"made-by": "test"},
            extra_body={"lora_r": 4, "save_steps": 120, "max_cost": None},
        )
    )
    assert job.id in [each.id for each in jobs.list(metadata={"made-by": "test"})]
    until(client, job, lambda _: bool(list(jobs.checkpoints.list(job.id))))
    jobs.pause(job.id)
    paused = until(client, job, is_("paused"))
    assert (paused.finished_at, paused.fine_tuned_model) == (None, None)
    checkpoint = whole(jobs.checkpoints.list(job.id).data[0])
    jobs.resume(job.id)

    # What was measured is told apart from what happened, and may come later.
    done = until(client, job, lambda job: job.status == "succeeded" and bool(job.trained_tokens))
    assert done.fine_tuned_model is not None
    assert done.fine_tuned_model.startswith("ft:tiny:sums:")
    assert checkpoint.fine_tuned_model_checkpoint.startswith(f"{done.fine_tuned_model}:ckpt-step-")
    assert done.finished_at is not None
    assert done.finished_at >= job.created_at

    measured = metrics_of(client, job)
    steps = {each["step"] for each in measured}
    assert steps == set(range(1, measured[0]["total_steps"] + 1))
    assert any("valid_loss" in each for each in measured)
    (result,) = done.result_files
    rows = list(csv.DictReader(io.StringIO(client.files.content(result).text)))
    assert len(rows) == len(steps)
    assert done.fine_tuned_model in [whole(each).id for each in client.models.list()]
    answer_of(client, done.fine_tuned_model)


def answer_of(client: OpenAI, model: str) -> str:
    """What a model that is being deployed answers, as it is said."""

    def active() -> bool:
        try:
            client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=1
            )
        except openai.InternalServerError:
            return False
        return True

    eventually(active, timeout=TIMEOUT_SECONDS)
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is 2 plus 2?"}],
        max_tokens=8,
        temperature=0,
        stream=True,
    )
    chunks = [whole(chunk) for chunk in stream]
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.full
def test_another_job_is_cancelled(client: OpenAI, tmp_path: Path) -> None:
    file = uploaded(client, tmp_path, examples=100)
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file,
        hyperparameters={"n_epochs": 100, "batch_size": 2},
        extra_body={"max_cost": None},
    )
    until(client, job, is_("running"))
    with pytest.raises(openai.ConflictError):
        client.files.delete(file)
    client.fine_tuning.jobs.cancel(job.id)
    cancelled = until(client, job, is_("cancelled"))
    assert cancelled.finished_at is not None
    assert whole(client.files.delete(file)).deleted
