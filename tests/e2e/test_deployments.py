"""What was trained is deployed, and stays deployed when what serves it dies."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai import OpenAI, OpenAIError

from deploy.demo.account import demo_account
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest

pytestmark = pytest.mark.timeout(600)


@pytest.mark.full
def test_a_serving_process_that_is_killed_comes_back_with_what_was_deployed(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    path = ecolink.approve(ecolink.dataset(tmp_path, examples=20), epochs=1, save_steps=1)
    model = ecolink.await_end(path)["model"]
    # The best one: the others may be deleted at any moment, now that the job is registered.
    saved = ecolink.client.get(f"{path}/checkpoints")["data"]
    step = next(each["step"] for each in saved if each["best"])
    ecolink.client.post(f"/models/{model}/deploy", {})
    checkpoint = ecolink.client.post(f"{path}/checkpoints/{step}/deploy", {})["model"]
    for name in (model, checkpoint):
        eventually(lambda name=name: status(ecolink, name) == "active", TIMEOUT_SECONDS)
    names = ("tiny", model, checkpoint)
    before = {name: answer(ecolink, name) for name in names}
    changed = ecolink.client.get("/deployments")["data"]
    ecolink.kill("serving")
    eventually(lambda: answers(ecolink, checkpoint), TIMEOUT_SECONDS)
    assert {name: answer(ecolink, name) for name in names} == before
    assert ecolink.client.get("/deployments")["data"] == changed, "nothing happened to them"
    ecolink.client.post(f"/models/{checkpoint}/undeploy", {})
    eventually(lambda: not answers(ecolink, checkpoint), TIMEOUT_SECONDS)
    assert answer(ecolink, model) == before[model]
    (undeployed,) = ecolink.await_events(path, "Undeployed", 1)
    assert undeployed["model"] == checkpoint
    activated = ecolink.events(path, "DeploymentActivated")
    assert {each["model"] for each in activated} == {model, checkpoint}


def status(ecolink: EcoLinkUnderTest, model: str) -> str:
    return ecolink.client.get(f"/models/{model}/deployment")["status"]


def answer(ecolink: EcoLinkUnderTest, model: str) -> str | None:
    """What a model says greedily; raises OpenAI's error where it does not answer."""
    key = demo_account(ecolink.settings).key
    url = f"{ecolink.settings.gateway_url}/v1"
    with OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        said = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is 2 plus 2?"}],
            temperature=0,
            max_completion_tokens=8,
        )
    return said.choices[0].message.content


def answers(ecolink: EcoLinkUnderTest, model: str) -> bool:
    try:
        answer(ecolink, model)
    except OpenAIError:
        return False
    return True
