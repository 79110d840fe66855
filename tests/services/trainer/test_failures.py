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
from infrastructure.artifacts.store import ArtifactCorrupt
from services.trainer import checkpoint
from services.trainer.dataset import DatasetTooSmall
from services.trainer.failures import LossDiverged, classify
from services.trainer.model import BaseChanged, TargetModulesNotFound
from tests.services.trainer.segments import Trainer

MEMORY, DISK = FailureClass.OUT_OF_MEMORY, FailureClass.DISK_FULL
DATA, LOAD = FailureClass.BAD_DATA, FailureClass.MODEL_LOAD_FAILED
DIVERGED, CRASHED = FailureClass.LOSS_DIVERGED, FailureClass.TRAINER_CRASHED


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def caused(error: Exception, **links: object) -> Exception:
    for name, value in links.items():
        setattr(error, f"__{name}__", value)
    return error


@pytest.mark.parametrize(
    ("error", "phase", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "training", MEMORY),
        (MemoryError(), "dataset_prep", MEMORY),
        (RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED"), "training", MEMORY),
        (os_error(errno.ENOMEM), "model_load", MEMORY),
        (os_error(errno.ENOSPC), "model_load", DISK),
        (os_error(errno.EDQUOT), "training", DISK),
        (GenericError("LocalFileSystem: No space left (os error 28)"), "register", DISK),
        (SafetensorError("I/O error: No space left (os error 28)"), "register", DISK),
        (LossDiverged("loss nan"), "training", DIVERGED),
        (LossDiverged("loss nan"), "evaluation", DIVERGED),
        (DatasetTooSmall("1"), "dataset_prep", DATA),
        (TargetModulesNotFound("c_attn"), "model_load", DATA),
        (TemplateError("roles must alternate"), "dataset_prep", DATA),
        (KeyError("messages"), "dataset_prep", DATA),
        (KeyError("messages"), "training", CRASHED),
        (ArtifactCorrupt("another dataset"), "dataset_prep", CRASHED),
        (os_error(errno.EIO), "dataset_prep", CRASHED),
        (BaseChanged("another base"), "model_load", LOAD),
        (ArtifactCorrupt("differs"), "model_load", LOAD),
        (ValueError("unknown architecture"), "model_load", LOAD),
        (ImportError("libcudart"), "image_pull", CRASHED),
        (RuntimeError("closed by peer"), "training", CRASHED),
        (caused(RuntimeError("cannot save"), cause=os_error(errno.ENOSPC)), "training", DISK),
        (caused(ValueError("cannot load"), context=MemoryError()), "model_load", MEMORY),
        (
            caused(ValueError("cannot load"), context=MemoryError(), suppress_context=True),
            "model_load",
            LOAD,
        ),
    ],
)
def test_the_class_of_a_failure(error: Exception, phase: str, failure: FailureClass) -> None:
    assert classify(error, Phase(phase)) is failure


def test_torchs_cpu_error_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    assert classify(raised.value, Phase.TRAINING) is MEMORY


def test_a_full_disk_at_a_checkpoint_is_classified(trainer: Trainer) -> None:
    trainer.patch.setattr(checkpoint, "POSITION", "/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        trainer.train({"save_steps": 1})
    assert classify(raised.value, Phase.TRAINING) is DISK
