"""Code snippets that launch the wizard's job: a command line and an `openai` program."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from domain.training.hyperparameters import SUPERVISED, Group, Hyperparameters, use_of
from domain.training.integrations import Integration, text_of
from gateway.http.openai_vocabulary import FIELDS, file_name
from gateway.jobs.launch.job_form import JobRequest


def command_line(wanted: JobRequest) -> str:
    """Return the command that launches the same job."""
    choices = {
        "dataset": wanted.dataset,
        "validation_dataset": wanted.validation_dataset,
        "base_model": wanted.base_model,
        "gpu_type": wanted.gpu_type,
        "gpu_count": wanted.gpu_count,
        "region": wanted.region,
        **_chosen(wanted.hyperparameters),
        "suffix": wanted.suffix,
        "deploy": wanted.deploy or None,
        "wait": wanted.wait or None,
        "max_cost": wanted.max_cost,
        "track": tuple(map(text_of, wanted.integrations)) or None,
    }
    options = (each for name, value in choices.items() for each in _options(name, value))
    return " \\\n  ".join(["ecolink jobs launch", *options])


def _options(name: str, value: Any) -> Iterator[str]:
    option = name.replace("_", "-")
    match value:
        case None:
            pass
        case bool():
            yield f"--{option}" if value else f"--no-{option}"
        case tuple():
            for each in value:
                yield f"--{option} {shlex.quote(each)}"
        case _:
            yield f"--{option} {shlex.quote(str(value))}"


def python(wanted: JobRequest, base_url: str) -> str:
    """Return a program that launches the same job. It reads the API key from the environment.

    The program queues the job if too few GPUs are free, and deploys the model after registration.
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
        "method": _method(tuned),
        "integrations": [_sent(each) for each in wanted.integrations] or None,
    }
    ours = {
        "gpu_type": wanted.gpu_type,
        "gpu_count": wanted.gpu_count,
        "region": wanted.region,
        **({} if wanted.max_cost is None else {"max_cost": wanted.max_cost}),
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


def _method(tuned: dict[str, Any]) -> dict[str, Any] | None:
    """Return the method in OpenAI's form, removed from the hyperparameters; None if supervised."""
    method, beta = tuned.pop("method", SUPERVISED), tuned.pop("beta", None)
    if method == SUPERVISED:
        return None
    return {"type": method, method: {"hyperparameters": {"beta": beta}}}


def _sent(integration: Integration) -> dict[str, Any]:
    """Return an integration as a request has it, without defaults."""
    return integration.model_dump(mode="json", exclude_defaults=True)


def _chosen(tuned: Hyperparameters) -> dict[str, Any]:
    default = Hyperparameters().model_dump()
    return {
        name: value
        for name, value in tuned.model_dump().items()
        if value is not None and (use_of(name).group is Group.BASIC or value != default[name])
    }


def _text(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(k)}: {_text(each)}" for k, each in value.items()) + "}"
    return repr(value)
