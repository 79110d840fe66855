"""The wanted deployments are in memory, after each event and after a restart."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import torch
from safetensors import SafetensorError

from domain.core.identity import deployment_id
from domain.deployments.deployment import Deployment
from infrastructure.artifacts import Artifacts
from infrastructure.backoff import MAX_PAUSE
from infrastructure.disk_cache import MODELS, trim_copies
from services.serving.attempts import MAX_DEATHS
from services.serving.deployed import REASONS
from services.serving.resource_exhaustion import MAX_TRIES
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.services.serving.memory_host import UNREADABLE
from tests.services.serving.world import (
    ADAPTER,
    CHECKPOINT,
    MODEL,
    World,
    given_a_served_checkpoint,
)


def test_an_imported_base_is_deployed(world: World) -> None:
    world.import_base()
    world.follow()
    assert world.found("tiny").status == "active"
    (served,) = world.host.attached.values()
    assert served.base_directory == world.artifacts.root / "models/tiny/1"  # type: ignore[operator]
    assert served.adapter_directory is None


def test_a_revision_replaces_the_previous_one(world: World) -> None:
    world.import_base()
    world.follow()
    world.import_base(b"2")
    world.follow()
    (served,) = world.host.attached.values()
    assert served.base_directory.name == "2"
    assert world.found("tiny").status == "active"


def test_an_import_does_not_deploy_an_undeployed_base(world: World) -> None:
    world.import_base()
    world.follow()
    with command("undeploy"):
        world.deploying.undeploy_base("tiny", lambda: 0)
    world.import_base(b"2")
    world.follow()
    assert (world.found("tiny").status, world.host.models) == ("undeployed", set())


def test_a_checkpoint_is_copied_without_the_files_for_a_resume(world: World) -> None:
    given_a_served_checkpoint(world)
    assert world.found(CHECKPOINT).status == "active"
    directory = world.host.attached[world.found(CHECKPOINT).id].adapter_directory
    assert directory is not None
    assert {path.name for path in directory.iterdir()} == set(ADAPTER)


def test_an_undeployed_model_is_detached(world: World) -> None:
    given_a_served_checkpoint(world)
    with command("undeploy"):
        world.deploying.undeploy(ACCOUNT_ID, CHECKPOINT)
    world.follow()
    assert world.host.models == {"tiny"}
    assert list((world._home / "cache" / "adapters").iterdir()) == []


def test_a_shared_adapter_copy_is_kept_while_in_use(world: World) -> None:
    """A model promoted from a checkpoint has the same files as the checkpoint."""
    given_a_served_checkpoint(world)
    weights = world.found(CHECKPOINT).weights
    with command("another name"):
        world.log.commit(Deployment.request(ACCOUNT_ID, MODEL, weights))
    world.follow()
    with command("undeploy"):
        world.deploying.undeploy(ACCOUNT_ID, CHECKPOINT)
    world.follow()
    directory = world.host.attached[world.found(MODEL).id].adapter_directory
    assert directory is not None
    assert directory.exists()


def test_a_shared_base_copy_is_kept_while_in_use(world: World) -> None:
    world.artifacts = Artifacts("memory:///")
    world.start()
    given_a_served_checkpoint(world)
    models = world._home / "cache" / MODELS
    with command("undeploy the checkpoint"):
        world.deploying.undeploy(ACCOUNT_ID, CHECKPOINT)
    world.follow()
    assert trim_copies(models, 0).count == 0
    world.import_base(b"2")
    world.follow()
    assert trim_copies(models, 0).count == 1
    with command("undeploy the base"):
        world.deploying.undeploy_base("tiny", lambda: 0)
    world.follow()
    assert trim_copies(models, 0).count == 1


def test_a_restart_loads_all_deployments_bases_first(world: World) -> None:
    given_a_served_checkpoint(world)
    before = world.found(CHECKPOINT).version
    world.start()
    world.serving.restore()
    assert world.host.calls == ["tiny", CHECKPOINT]
    world.follow()
    assert world.host.models == {"tiny", CHECKPOINT}
    assert world.found(CHECKPOINT).version == before, "nothing happened that anyone must know"


def test_a_deployment_requested_while_down_is_loaded_at_the_start(world: World) -> None:
    world.import_base()
    world.follow()
    world.train()
    world.deploy_checkpoint()
    world.start()
    world.serving.restore()
    assert world.found(CHECKPOINT).status == "active"
    world.follow()
    assert world.found(CHECKPOINT).version == 2


def test_a_deployment_undeployed_while_down_is_not_loaded(world: World) -> None:
    given_a_served_checkpoint(world)
    with command("undeploy"):
        world.deploying.undeploy(ACCOUNT_ID, CHECKPOINT)
    world.start()
    world.serving.restore()
    assert world.host.calls == ["tiny"]
    assert list((world._home / "cache" / "adapters").iterdir()) == []
    world.follow()
    assert world.host.models == {"tiny"}


def test_a_refused_deployment_fails_and_can_be_requested_again(world: World) -> None:
    world.import_base()
    world.host.refusal = UNREADABLE
    world.follow()
    (*_, failed) = world.log.events.get(world.found("tiny").id)
    assert isinstance(failed, Deployment.DeploymentFailed)
    assert failed.message == REASONS["base_unreadable"], "the log keeps no path and no detail"
    world.host.refusal = RuntimeError("a bug")
    with command("again"):
        world.deploying.deploy_base("tiny")
    world.follow()
    (*_, failed) = world.log.events.get(world.found("tiny").id)
    assert isinstance(failed, Deployment.DeploymentFailed)
    assert (failed.code, failed.message) == ("load_failed", REASONS["load_failed"])
    world.host.refusal = None
    with command("and again"):
        world.deploying.deploy_base("tiny")
    world.follow()
    assert world.found("tiny").status == "active"


def test_a_deployment_that_killed_the_process_three_times_fails(
    world: World,
) -> None:
    given_a_served_checkpoint(world)
    died = []
    for _ in range(MAX_DEATHS):
        world.start()
        died.append(world.attempts.noted(world.found(CHECKPOINT).id))
        died[-1].__enter__()  # and never ends
    world.start()
    world.serving.restore()
    assert world.host.models == {"tiny"}
    assert world.found(CHECKPOINT).status == "failed"
    with command("again"):
        world.deploying.redeploy(ACCOUNT_ID, CHECKPOINT)
    world.follow()
    assert world.host.models == {"tiny", CHECKPOINT}


NO_ROOM = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EIO, "Input/output error"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory."),
    SafetensorError("Error while deserializing header: Cannot allocate memory (os error 12)"),
]


@pytest.mark.parametrize("shortage", NO_ROOM, ids=repr)
def test_exhausted_resources_at_a_restart_are_retried(world: World, shortage: Exception) -> None:
    given_a_served_checkpoint(world)
    before = world.found(CHECKPOINT).version
    world.start()
    world.host.refusal, world.host.refused = shortage, CHECKPOINT
    world.serving.restore()
    world.follow()
    assert world.host.models == {"tiny"}
    world.host.refusal = None
    world.serving.try_again()
    assert world.host.models == {"tiny"}, "its time has not come"
    world.clock.time += MAX_PAUSE
    world.serving.try_again()
    assert world.host.models == {"tiny", CHECKPOINT}
    assert world.found(CHECKPOINT).version == before, "nothing happened that anyone must know"


def test_a_new_deployment_stays_deploying_while_resources_are_exhausted(
    world: World,
) -> None:
    world.host.refusal = MemoryError()
    world.import_base()
    world.follow()
    for _ in range(3):
        world.clock.time += MAX_PAUSE
        world.serving.try_again()
    assert (world.found("tiny").status, world.host.calls) == ("deploying", ["tiny"] * 4)
    world.host.refusal = None
    world.clock.time += MAX_PAUSE
    world.serving.try_again()
    assert (world.found("tiny").status, world.host.models) == ("active", {"tiny"})
    world.clock.time += MAX_PAUSE
    world.serving.try_again()
    assert len(world.host.calls) == 5


def test_a_new_deployment_fails_after_the_last_retry(
    world: World,
) -> None:
    world.host.refusal = MemoryError()
    world.import_base()
    world.follow()
    for _ in range(MAX_TRIES + 3):
        world.clock.time += MAX_PAUSE
        world.serving.try_again()
    found = world.found("tiny")
    assert (found.status, len(world.host.calls)) == ("failed", 1 + MAX_TRIES)
    world.host.refusal = None
    with command("deploy"):
        world.deploying.deploy_base("tiny")
    world.follow()
    assert (world.found("tiny").status, world.host.models) == ("active", {"tiny"})


def test_a_deployment_that_was_active_is_retried_without_limit(world: World) -> None:
    given_a_served_checkpoint(world)
    world.start()
    world.host.refusal, world.host.refused = MemoryError(), CHECKPOINT
    world.serving.restore()
    for _ in range(MAX_TRIES + 3):
        world.clock.time += MAX_PAUSE
        world.serving.try_again()
    assert world.found(CHECKPOINT).status == "active"


def test_an_undeployed_model_is_not_retried(world: World) -> None:
    world.host.refusal = MemoryError()
    world.import_base()
    world.follow()
    with command("undeploy"):
        world.deploying.undeploy_base("tiny", lambda: 0)
    world.follow()
    world.clock.time += MAX_PAUSE
    world.serving.try_again()
    assert world.host.calls == ["tiny"]


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda store, ref: store.delete_directory(ref), "weights_missing"),
        (lambda store, ref: store.put(f"{ref}/manifest.json", b"{}"), "weights_damaged"),
        (lambda store, ref: store.put(f"{ref}/adapter_model.safetensors", b"x"), "weights_damaged"),
    ],
)
def test_weights_that_differ_from_the_log_fail(
    world: World, harm: Callable[[Artifacts, str], None], code: str
) -> None:
    world.import_base()
    world.follow()
    world.train()
    harm(world.artifacts, "jobs/a/checkpoints/10")
    world.deploy_checkpoint()
    world.follow()
    (*_, failed) = world.log.events.get(world.found(CHECKPOINT).id)
    assert isinstance(failed, Deployment.DeploymentFailed)
    assert failed.code == code
    assert world.host.models == {"tiny"}


def test_a_model_of_a_job_with_deploy_is_deployed_when_registered(world: World) -> None:
    world.import_base()
    world.follow()
    world.train(deploy=True)
    world.register()
    world.follow()
    assert world.found(MODEL).status == "active"
    assert world.host.models == {"tiny", MODEL}


def test_a_model_without_its_base_fails_with_a_reason(world: World) -> None:
    world.train(deploy=True)
    world.register()
    world.follow()
    _, failed = world.log.events.get(world.found(MODEL).id)
    assert isinstance(failed, Deployment.DeploymentFailed)
    assert "tiny is not deployed" in failed.message


def test_a_model_of_a_job_without_deploy_is_not_deployed(world: World) -> None:
    world.import_base()
    world.train()
    world.register()
    world.follow()
    assert world.log.find(Deployment, deployment_id(ACCOUNT_ID, MODEL)) is None
