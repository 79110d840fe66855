"""Preference pairs, from the upload to a chat with the model that was trained on them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI

from deploy.demo.account import demo_account
from tests.builders.tiny_model import preference_pairs
from tests.polling import eventually
from tests.running import EcoLinkUnderTest

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]


def test_a_job_with_dpo_costs_what_was_approved_and_its_model_answers(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    url, key = ecolink.settings.gateway_url, demo_account(ecolink.settings).key
    client = OpenAI(base_url=f"{url}/v1", api_key=key)
    own = httpx.Client(base_url=f"{url}/api", headers={"authorization": f"Bearer {key}"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in preference_pairs(200)))
    file = client.files.create(file=path, purpose="fine-tune")
    created = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        extra_body={"max_cost": None},
        method={
            "type": "dpo",
            "dpo": {
                "hyperparameters": {
                    "beta": 0.2,
                    "n_epochs": 20,
                    "batch_size": 4,
                    "learning_rate_multiplier": 50,
                }
            },
        },
        seed=3,
    )
    jobs = client.fine_tuning.jobs

    def ended() -> bool:
        status = jobs.retrieve(created.id).status
        assert status not in ("failed", "cancelled"), own.get(f"/jobs/{created.id}").text
        return status == "succeeded"

    eventually(ended, timeout=400)
    job = jobs.retrieve(created.id)
    assert job.method is not None
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta == 0.2
    assert job.fine_tuned_model is not None
    eventually(lambda: "MeterClosed" in own.get(f"/jobs/{created.id}/timeline").text)
    shown = own.get(f"/jobs/{created.id}").json()
    assert shown["accuracy_after"] > 0.5
    assert shown["reward_margin"] > 0
    assert shown["perplexity_after"] is None
    low, high = (shown["estimate"][bound]["micros"] for bound in ("low", "high"))
    cost = shown["charged"]["micros"]
    print(f"estimated {low} to {high}, billed {cost} micro-dollars")
    assert cost <= high
    (table,) = job.result_files
    lines = list(csv.DictReader(io.StringIO(client.files.content(table).text)))
    assert len(lines) == shown["total_steps"]
    assert float(lines[-1]["train_chosen_reward"]) > float(lines[-1]["train_rejected_reward"])
    model = job.fine_tuned_model

    def answers() -> bool:
        try:
            chat = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Question 1: no?"}]
            )
        except openai.InternalServerError:
            return False  # the model is being deployed
        return chat.choices[0].message.content is not None

    eventually(answers)
