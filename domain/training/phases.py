"""Phases of a segment, in order; the meter charges each, and the estimate has a line for each."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What a pod is doing."""

    IMAGE_PULL = "image_pull"  # until the trainer's program is loaded: image, process, imports
    MODEL_LOAD = "model_load"
    DATASET_PREP = "dataset_prep"
    TRAINING = "training"
    EVALUATION = "evaluation"
    REGISTER = "register"
