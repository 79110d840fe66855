"""The failure classes of errors."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from jinja2 import TemplateError
from obstore.exceptions import GenericError
from safetensors import SafetensorError

from domain.jobs.failures import FailureClass
from domain.training.phases import Phase
from infrastructure.artifacts import ArtifactCorrupt
from services.trainer import checkpoint
from services.trainer.dataset import DatasetTooSmall
from services.trainer.failures import LossDiverged, classify
from services.trainer.model import BaseChanged, TargetModulesNotFound
from tests.services.trainer.conftest import SpecMaker


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "phase", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "training", "memory"),
        (MemoryError(), "dataset_prep", "memory"),
        (RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED"), "training", "memory"),
        (os_error(errno.ENOMEM), "model_load", "memory"),
        (os_error(errno.ENOSPC), "model_load", "disk"),
        (os_error(errno.EDQUOT), "training", "disk"),
        (GenericError("LocalFileSystem: No space left (os error 28)"), "register", "disk"),
        (SafetensorError("I/O error: No space left (os error 28)"), "register", "disk"),
        (LossDiverged("loss nan"), "training", "diverged"),
        (LossDiverged("loss nan"), "evaluation", "diverged"),
        (DatasetTooSmall("1"), "dataset_prep", "data"),
        (TargetModulesNotFound("c_attn"), "model_load", "data"),
        (TemplateError("roles must alternate"), "dataset_prep", "data"),
        (KeyError("messages"), "dataset_prep", "data"),
        (KeyError("messages"), "training", "crashed"),
        (ArtifactCorrupt("not the dataset that was approved"), "dataset_prep", "crashed"),
        (os_error(errno.EIO), "dataset_prep", "crashed"),
        (BaseChanged("not the one"), "model_load", "load"),
        (ArtifactCorrupt("differs"), "model_load", "load"),
        (ValueError("unknown architecture"), "model_load", "load"),
        (ImportError("libcudart"), "image_pull", "crashed"),
        (RuntimeError("closed by peer"), "training", "crashed"),
    ],
)
def test_the_class_of_a_failure(error: Exception, phase: str, failure: str) -> None:
    classes = {
        "memory": FailureClass.OUT_OF_MEMORY,
        "disk": FailureClass.DISK_FULL,
        "diverged": FailureClass.LOSS_DIVERGED,
        "data": FailureClass.BAD_DATA,
        "load": FailureClass.MODEL_LOAD_FAILED,
        "crashed": FailureClass.TRAINER_CRASHED,
    }
    assert classify(error, Phase(phase)) is classes[failure]


def test_torchs_cpu_error_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    assert classify(raised.value, Phase.TRAINING) is FailureClass.OUT_OF_MEMORY


def test_a_full_disk_at_a_checkpoint_is_classified(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "POSITION", "/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        run(make_spec({"save_steps": 1}))
    assert classify(raised.value, Phase.TRAINING) is FailureClass.DISK_FULL


def test_the_cause_of_an_error_is_classified() -> None:
    caused = RuntimeError("cannot save")
    caused.__cause__ = os_error(errno.ENOSPC)
    assert classify(caused, Phase.TRAINING) is FailureClass.DISK_FULL
    caused = ValueError("cannot load")
    caused.__context__ = MemoryError()
    assert classify(caused, Phase.MODEL_LOAD) is FailureClass.OUT_OF_MEMORY
    caused.__suppress_context__ = True
    assert classify(caused, Phase.MODEL_LOAD) is FailureClass.MODEL_LOAD_FAILED
