"""A job's choices as others would say them: the command line, and the `openai` package."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from domain.training.hyperparameters import Hyperparameters
from gateway.http.openai_vocabulary import FIELDS, file_name
from gateway.launch.job_form import JobRequest
from gateway.launch.pages.wizard_fields import TIER_1


def command_line(wanted: JobRequest) -> str:
    """The command that launches the same job."""
    options = [
        ("dataset", wanted.dataset),
        ("validation-dataset", wanted.validation_dataset),
        ("base-model", wanted.base_model),
        ("gpu-type", wanted.gpu_type),
        ("gpu-count", wanted.gpu_count),
        ("region", wanted.region),
        *_options(wanted.hyperparameters),
        ("suffix", wanted.suffix),
    ]
    said = [
        f"--{name} {shlex.quote(str(value))}" for name, value in options if value is not None
    ] + [f"--{flag}" for flag in ("deploy", "wait") if getattr(wanted, flag)]
    return " \\\n  ".join(["ecolink jobs launch", *said])


def _options(tuned: Hyperparameters) -> Iterator[tuple[str, Any]]:
    for name, value in _chosen(tuned).items():
        for each in value if isinstance(value, tuple) else (value,):
            yield name.replace("_", "-"), each


def python(wanted: JobRequest, base_url: str) -> str:
    """The program that launches the same job; its key is in the environment.

    There the job waits for its GPUs, and its model is deployed as soon as it is registered.
    """
    tuned = _chosen(wanted.hyperparameters)
    seed = tuned.pop("seed", None)
    call = {
        FIELDS["base_model"]: wanted.base_model,
        FIELDS["dataset"]: file_name(wanted.dataset),
        FIELDS["validation_dataset"]: wanted.validation_dataset
        and file_name(wanted.validation_dataset),
        "suffix": wanted.suffix,
        "seed": seed,
    }
    ours = {
        "gpu_type": wanted.gpu_type,
        "gpu_count": wanted.gpu_count,
        "region": wanted.region,
        **tuned,
    }
    return "\n".join(
        [
            "import os",
            "from openai import OpenAI",
            "",
            f"client = OpenAI(base_url={_text(base_url + '/v1')}, "
            'api_key=os.environ["ECOLINK_API_KEY"])',
            "job = client.fine_tuning.jobs.create(",
            *(f"    {name}={_text(value)}," for name, value in call.items() if value is not None),
            "    extra_body={",
            *(f"        {_text(name)}: {_text(value)}," for name, value in ours.items()),
            "    },",
            ")",
            "print(job.id)",
            "",
        ]
    )


def _chosen(tuned: Hyperparameters) -> dict[str, Any]:
    """What most users look at, and of the rest what is not the default."""
    default = Hyperparameters().model_dump()
    return {
        name: value
        for name, value in tuned.model_dump().items()
        if name in TIER_1 or value != default[name]
    }


def _text(value: Any) -> str:
    """A value as Python has it, strings in double quotes as people write them."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return repr(value)
