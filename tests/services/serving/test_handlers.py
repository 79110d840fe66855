"""The requested deployments are in memory, after each event and after a restart."""

from __future__ import annotations

import errno
from collections.abc import Callable
from uuid import UUID

import pytest
import torch
from safetensors import SafetensorError

from domain.core.aggregate import Aggregate
from domain.core.identity import deployment_id
from domain.deployments.deployment import Deployment
from infrastructure.artifacts.disk_cache import MODELS, trim_copies
from infrastructure.artifacts.store import Artifacts
from infrastructure.chat.chat_template import CHAT_TEMPLATE
from services.serving.attempts import MAX_DEATHS
from services.serving.deployed import REASONS, CannotServe
from services.serving.resource_exhaustion import MAX_TRIES
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.services.serving.conftest import ADAPTER, CHECKPOINT, CHECKPOINT_REF, MODEL, Process


def test_an_imported_base_is_deployed_and_a_revision_replaces_it(process: Process) -> None:
    for revision in ("1", "2"):
        process.import_base(revision)
        assert process.found("tiny").status == "active"
        (served,) = process.host.attached.values()
        root = process.artifacts.root
        assert served.base_directory == root / "models/tiny" / revision  # type: ignore[operator]
        assert served.adapter_directory is None


def test_an_import_does_not_deploy_an_undeployed_base(process: Process) -> None:
    process.import_base()
    process.undeploy_base()
    process.import_base("2")
    assert (process.found("tiny").status, process.host.models) == ("undeployed", set())


def test_a_checkpoint_is_copied_without_the_files_for_a_resume(process: Process) -> None:
    process.serve_checkpoint()
    assert process.found(CHECKPOINT).status == "active"
    directory = process.host.attached[process.found(CHECKPOINT).id].adapter_directory
    assert directory is not None
    assert {path.name for path in directory.iterdir()} == set(ADAPTER)


def test_the_chat_template_of_an_adapter_is_copied(process: Process) -> None:
    """Also if the previous version copied the adapter without it."""
    process.others[CHAT_TEMPLATE] = b"{{ messages }}"
    process.import_base()
    process.train()
    process.deploy_checkpoint()
    adapter = process.found(CHECKPOINT).weights.adapter
    assert adapter is not None
    earlier = process._home / "cache" / "adapters" / adapter.manifest_sha256
    earlier.mkdir(parents=True)
    for name, content in ADAPTER.items():
        (earlier / name).write_bytes(content)
    process.restart()
    directory = process.host.attached[process.found(CHECKPOINT).id].adapter_directory
    assert directory is not None
    assert {path.name for path in directory.iterdir()} == {*ADAPTER, CHAT_TEMPLATE}
    process.restart()
    assert process.adapters() == [directory]


def test_an_undeployed_model_is_detached(process: Process) -> None:
    process.serve_checkpoint()
    process.undeploy_checkpoint()
    assert process.host.models == {"tiny"}
    assert process.adapters() == []


def test_a_shared_adapter_copy_is_kept_while_in_use(process: Process) -> None:
    """A model promoted from a checkpoint has the same files as the checkpoint."""
    process.serve_checkpoint()
    with command("another name"):
        weights = process.found(CHECKPOINT).weights
        process.log.commit(Deployment.request(ACCOUNT_ID, MODEL, weights))
    process.follow()
    process.undeploy_checkpoint()
    directory = process.host.attached[process.found(MODEL).id].adapter_directory
    assert process.adapters() == [directory]


def test_a_shared_base_copy_is_kept_while_in_use(process: Process) -> None:
    process.artifacts = Artifacts("memory:///")
    process.start()
    process.serve_checkpoint()
    models = process._home / "cache" / MODELS
    process.undeploy_checkpoint()
    assert trim_copies(models, 0).count == 0
    process.import_base("2")
    assert trim_copies(models, 0).count == 1
    process.undeploy_base()
    assert trim_copies(models, 0).count == 1


def test_a_restart_loads_all_deployments_bases_first(process: Process) -> None:
    process.serve_checkpoint()
    before = process.found(CHECKPOINT).version
    process.restart()
    assert process.host.calls == ["tiny", CHECKPOINT]
    process.follow()
    assert process.host.models == {"tiny", CHECKPOINT}
    assert process.found(CHECKPOINT).version == before


def test_a_deployment_requested_while_down_is_loaded_at_the_start(process: Process) -> None:
    process.import_base()
    process.train()
    process.deploy_checkpoint()
    process.restart()
    assert process.found(CHECKPOINT).status == "active"
    process.follow()
    assert process.found(CHECKPOINT).version == 2


def test_a_deployment_undeployed_while_down_is_not_loaded(process: Process) -> None:
    process.serve_checkpoint()
    process.history.undeploy(CHECKPOINT)
    process.restart()
    assert process.host.calls == ["tiny"]
    assert process.adapters() == []
    process.follow()
    assert process.host.models == {"tiny"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CannotServe("base_unreadable", "/srv/tiny: bad magic number"), "base_unreadable"),
        (RuntimeError("a bug"), "load_failed"),
    ],
)
def test_a_refused_deployment_fails_and_can_be_requested_again(
    process: Process, error: Exception, code: str
) -> None:
    process.host.refusal = error
    process.import_base()
    failed = process.failure("tiny")
    assert (failed.code, failed.message) == (code, REASONS[code]), "the log has no paths"
    process.host.refusal = None
    process.deploy_base("again")
    assert process.found("tiny").status == "active"


def test_a_deployment_that_killed_the_process_three_times_fails(process: Process) -> None:
    process.serve_checkpoint()
    died = []
    for _ in range(MAX_DEATHS):
        process.start()
        died.append(process.attempts.noted(process.found(CHECKPOINT).id))
        died[-1].__enter__()  # and never ends
    process.restart()
    assert process.host.models == {"tiny"}
    assert process.found(CHECKPOINT).status == "failed"
    with command("again"):
        process.deploying.redeploy(ACCOUNT_ID, CHECKPOINT)
    process.follow()
    assert process.host.models == {"tiny", CHECKPOINT}


EXHAUSTION = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EIO, "Input/output error"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory."),
    SafetensorError("Error while deserializing header: Cannot allocate memory (os error 12)"),
]


@pytest.mark.parametrize("exhaustion", EXHAUSTION, ids=repr)
def test_exhausted_resources_at_a_restart_are_retried(
    process: Process, exhaustion: Exception
) -> None:
    process.serve_checkpoint()
    before = process.found(CHECKPOINT).version
    process.start()
    process.host.refusal, process.host.refused = exhaustion, CHECKPOINT
    process.serving.restore()
    process.follow()
    assert process.host.models == {"tiny"}
    process.host.refusal = None
    process.serving.try_again()
    assert process.host.models == {"tiny"}, "its time has not come"
    process.retry()
    assert process.host.models == {"tiny", CHECKPOINT}
    assert process.found(CHECKPOINT).version == before


def test_a_new_deployment_is_retried_while_resources_are_exhausted(process: Process) -> None:
    process.host.refusal = MemoryError()
    process.import_base()
    for _ in range(3):
        process.retry()
    assert (process.found("tiny").status, process.host.calls) == ("deploying", ["tiny"] * 4)
    process.host.refusal = None
    process.retry()
    assert (process.found("tiny").status, process.host.models) == ("active", {"tiny"})
    process.retry()
    assert len(process.host.calls) == 5


def test_a_new_deployment_fails_after_the_last_retry(process: Process) -> None:
    process.host.refusal = MemoryError()
    process.import_base()
    for _ in range(MAX_TRIES + 3):
        process.retry()
    assert (process.found("tiny").status, len(process.host.calls)) == ("failed", 1 + MAX_TRIES)
    process.host.refusal = None
    process.deploy_base("again")
    assert (process.found("tiny").status, process.host.models) == ("active", {"tiny"})


def test_a_deployment_that_was_active_is_retried_without_limit(process: Process) -> None:
    process.serve_checkpoint()
    process.start()
    process.host.refusal, process.host.refused = MemoryError(), CHECKPOINT
    process.serving.restore()
    for _ in range(MAX_TRIES + 3):
        process.retry()
    assert process.found(CHECKPOINT).status == "active"


def test_an_undeployed_model_is_not_retried(process: Process) -> None:
    process.host.refusal = MemoryError()
    process.import_base()
    process.undeploy_base()
    process.retry()
    assert process.host.calls == ["tiny"]


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda store, ref: store.delete_directory(ref), "weights_missing"),
        (lambda store, ref: store.put(f"{ref}/manifest.json", b"{}"), "weights_damaged"),
        (lambda store, ref: store.put(f"{ref}/adapter_model.safetensors", b"x"), "weights_damaged"),
    ],
)
def test_weights_that_differ_from_the_log_fail(
    process: Process, harm: Callable[[Artifacts, str], None], code: str
) -> None:
    process.import_base()
    process.train()
    harm(process.artifacts, CHECKPOINT_REF)
    process.deploy_checkpoint()
    process.follow()
    assert process.failure(CHECKPOINT).code == code
    assert process.host.models == {"tiny"}


def test_a_model_of_a_job_with_deploy_is_deployed_when_registered(process: Process) -> None:
    process.import_base()
    process.train(deploy=True)
    process.register()
    assert process.found(MODEL).status == "active"
    assert process.host.models == {"tiny", MODEL}


def test_a_model_without_its_base_fails(process: Process) -> None:
    process.train(deploy=True)
    process.register()
    assert process.failure(MODEL).code == "base_not_deployed"


def test_a_model_of_a_job_without_deploy_is_not_deployed(process: Process) -> None:
    process.import_base()
    process.train()
    process.register()
    assert process.log.find(Deployment, deployment_id(ACCOUNT_ID, MODEL)) is None


def test_deployments_of_a_suspended_account_are_unloaded_until_it_is_reinstated(
    process: Process,
) -> None:
    process.serve_checkpoint()
    before = process.found(CHECKPOINT).version
    process.history.suspend()
    process.follow()
    assert process.host.models == {"tiny"}
    process.restart()
    process.follow()
    assert process.host.models == {"tiny"}
    process.history.reinstate()
    process.follow()
    assert process.host.models == {"tiny", CHECKPOINT}
    assert process.found(CHECKPOINT).status == "active"
    assert process.found(CHECKPOINT).version == before


def test_a_suspension_loads_no_deployment_of_another_account(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.serve_checkpoint()
    own, other = process.found(CHECKPOINT).id, process.found("tiny").id
    loaded: list[UUID] = []
    load = process.log.load

    def noted(kind: type[Aggregate], id: UUID) -> Aggregate:
        loaded.append(id)
        return load(kind, id)

    monkeypatch.setattr(process.log, "load", noted)
    process.history.suspend()
    process.follow()
    assert own in loaded
    assert other not in loaded


def test_a_deployment_requested_before_a_suspension_is_loaded_after_it(process: Process) -> None:
    process.import_base()
    process.train()
    process.deploy_checkpoint()
    process.history.suspend()
    process.restart()
    process.follow()
    assert process.found(CHECKPOINT).status == "deploying"
    process.history.reinstate()
    process.restart()
    assert process.found(CHECKPOINT).status == "active"
