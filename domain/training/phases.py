"""Phases of a segment."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Phases of a segment, in order."""

    IMAGE_PULL = "image_pull"  # until the trainer's program and its imports are loaded
    MODEL_LOAD = "model_load"
    DATASET_PREP = "dataset_prep"
    REFERENCE = "reference"  # DPO only: log-probabilities of the policy that training starts from
    TRAINING = "training"
    EVALUATION = "evaluation"
    REGISTER = "register"


SUPERVISED_PHASES = tuple(phase for phase in Phase if phase is not Phase.REFERENCE)
"""Phases of a segment that trains on chats, in order."""
