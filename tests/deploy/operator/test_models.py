"""`ecolink models verify` and `delete-base`: output and exit status."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from domain.catalog.base_model import BaseModel
from domain.core.event_log import EventLog
from domain.core.identity import PLATFORM_ACCOUNT_ID, base_model_id, deployment_id
from domain.deployments.deployment import Deployment, DeploymentStatus
from domain.jobs.job import Job
from domain.use_cases.deployments import Deploying, model_deployment
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from projections import BASE_MODELS
from projections.base_models import all_base_models
from projections.projection import ProjectionEffect
from tests.builders.commands import command
from tests.builders.reports import WEIGHTS, adapter_ref, register_model
from tests.deploy.operator.command_line import ecolink

verify = partial(ecolink, "models", "verify")
delete_base = partial(ecolink, "models", "delete-base")


def test_models_verify(log: EventLog, settings: Settings, tmp_path: Path) -> None:
    assert "ft:tiny:0" in verify("ft:tiny:0", exit_code=4)
    model = register_model(log, settings).model
    printed = verify(model)
    assert f"file {WEIGHTS}" in printed
    assert "0 differ" in printed

    copy, artifacts = tmp_path / "copy", Artifacts(settings.artifacts)
    assert "--directory" in verify(model, "--directory", str(copy), exit_code=2)
    artifacts.get_directory(adapter_ref(2), copy)
    verify(model, "--directory", str(copy))
    (copy / WEIGHTS).write_bytes(b"Weights")
    printed = verify(model, "--directory", str(copy), exit_code=1)
    assert f"differs  file {WEIGHTS}: expected " in printed
    answer = json.loads(verify(model, "--directory", str(copy), "--json", exit_code=1))
    assert (answer["model"], answer["ok"]) == (model, False)
    assert [each["check"] for each in answer["checks"] if not each["ok"]] == [f"file {WEIGHTS}"]


def test_a_base_in_use_cannot_be_deleted(log: EventLog, settings: Settings) -> None:
    job = log.load(Job, register_model(log, settings).originator_id)
    base = job.plan.base_model
    deploying = Deploying(log)
    assert "nope" in delete_base("nope", exit_code=1)
    with command():
        deployment = deploying.deploy_base(base)
        deployment.activate()
        log.commit(deployment)
        adapter = model_deployment(log, job)
        log.commit(adapter)
    assert f"{base} is in use: model {job.model_name}" in delete_base(base, exit_code=1)
    with command():
        deploying.undeploy(job.account_id, job.model_name)
    assert f"Deleted {base}" in delete_base(base)
    assert log.load(BaseModel, base_model_id(base)).deleted
    served = log.load(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, base))
    assert served.status is DeploymentStatus.UNDEPLOYED
    assert f"{base!r}" in delete_base(base, exit_code=1)
    with connect(settings) as connection:
        OrderedConsumer(ProjectionEffect(BASE_MODELS, lambda: connect(settings)), log).catch_up()
        assert all_base_models(connection) == []
