"""Models under /v1, through the real client."""

from __future__ import annotations

import openai
import pytest
from fastapi.testclient import TestClient

from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.conftest import ClientOf
from tests.gateway.jobs.owners import Trained
from tests.openai_objects import whole


@pytest.fixture
def trained(client_of: ClientOf, client: TestClient, platform: Platform) -> Trained:
    done = Trained(client_of, client, platform)
    done.register()
    platform.project()
    return done


def test_base_models_are_listed_first(trained: Trained, client_of: ClientOf) -> None:
    models = [whole(each) for each in trained.client.models.list()]
    base, own = models
    assert (base.id, base.owned_by) == (BASE_MODEL, "ecolink")
    assert own.id.startswith(f"ft:{BASE_MODEL}:s:")
    for each in models:
        assert whole(trained.client.models.retrieve(each.id)) == each
    with pytest.raises(openai.NotFoundError):
        trained.client.models.retrieve("gpt-none")


def test_a_deployed_checkpoint_is_a_model_until_it_is_undeployed(
    trained: Trained, client_of: ClientOf, client: TestClient, platform: Platform
) -> None:
    (saved,) = trained.client.fine_tuning.jobs.checkpoints.list(trained.name)
    name, headers = saved.fine_tuned_model_checkpoint, trained.person.headers
    models = trained.client.models
    with pytest.raises(openai.NotFoundError):
        models.retrieve(name)
    deploy = f"/api/jobs/{trained.name}/checkpoints/{saved.step_number}/deploy"
    assert client.post(deploy, headers=headers).status_code == 200
    assert whole(models.retrieve(name)).owned_by.startswith("org-")
    assert [each.id for each in models.list()][2:] == [name]
    assert name not in [each.id for each in client_of(platform.person()).models.list()]
    with pytest.raises(openai.ConflictError, match="undeploy"):
        models.delete(name)
    assert client.post(f"/api/models/{name}/undeploy", headers=headers).status_code == 200
    assert name not in [each.id for each in models.list()]


def test_a_model_is_its_owners(trained: Trained, client_of: ClientOf, platform: Platform) -> None:
    _, own = trained.client.models.list()
    stranger = client_of(platform.person())
    assert [each.id for each in stranger.models.list()] == [BASE_MODEL]
    for ask in (stranger.models.retrieve, stranger.models.delete):
        with pytest.raises(openai.NotFoundError):
            ask(own.id)
    with pytest.raises(openai.PermissionDeniedError):
        stranger.models.delete(BASE_MODEL)


def test_a_deleted_model_is_gone_and_its_job_stays(trained: Trained) -> None:
    client = trained.client
    _, own = client.models.list()
    assert whole(client.models.delete(own.id)).deleted
    assert [each.id for each in client.models.list()] == [BASE_MODEL]
    for ask in (client.models.retrieve, client.models.delete):
        with pytest.raises(openai.NotFoundError):
            ask(own.id)
    job = whole(client.fine_tuning.jobs.retrieve(trained.name))
    assert (job.status, job.fine_tuned_model) == ("succeeded", None)
    assert list(client.fine_tuning.jobs.checkpoints.list(trained.name)) == []
    told = [each.message for each in client.fine_tuning.jobs.list_events(trained.name)]
    deleted = trained.timeline()[-1]
    assert deleted["topic"] == "ModelDeleted"
    assert deleted["text"] in told
