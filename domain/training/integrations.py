"""The integrations of a job: the experiment trackers that receive its metrics.

They have the shape of OpenAI's `integrations`. Their names are the user's text, so they are rows,
not events.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from domain.core.errors import Invalid

MOST_TAGS = 50

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=250)]
Path = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
"""A name that is part of a URL of Weights & Biases."""
Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
TagKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_. /-]{1,250}$")]
TagValue = Annotated[str, StringConstraints(max_length=5_000)]


class Tracker(StrEnum):
    """Kinds of trackers."""

    MLFLOW = "mlflow"
    WANDB = "wandb"
    TENSORBOARD = "tensorboard"
    """Event files, which EcoLink makes from the metrics of any job. No server is involved."""

    @property
    def product(self) -> str:
        """Name of the product."""
        return _PRODUCTS[self]

    @property
    def is_remote(self) -> bool:
        """True if EcoLink sends metrics to a server, which needs a connection."""
        return self is not Tracker.TENSORBOARD


_PRODUCTS = {
    Tracker.MLFLOW: "MLflow",
    Tracker.WANDB: "Weights & Biases",
    Tracker.TENSORBOARD: "TensorBoard",
}

REMOTE = tuple(each for each in Tracker if each.is_remote)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WandbRun(_Part):
    """A run of Weights & Biases, with OpenAI's fields."""

    project: Path = Field(description="Project of the run.", examples=["support-bot"])
    name: Name | None = Field(
        default=None, description="Display name of the run. By default, the ID of the job."
    )
    entity: Path | None = Field(
        default=None, description="Team or user that owns the run. By default, that of the API key."
    )
    tags: Annotated[list[Tag], Field(max_length=MOST_TAGS)] = Field(
        default=[], description="Tags of the run."
    )


class MlflowRun(_Part):
    """A run of MLflow."""

    experiment_name: Name = Field(
        description="Experiment of the run. EcoLink creates it if it does not exist.",
        examples=["support-bot"],
    )
    run_name: Name | None = Field(
        default=None, description="Name of the run. By default, the ID of the job."
    )
    tags: Annotated[dict[TagKey, TagValue], Field(max_length=MOST_TAGS)] = Field(
        default={}, description="Tags of the run."
    )


class TensorboardFiles(_Part):
    """Event files of TensorBoard, which have no options."""


class WandbIntegration(_Part):
    """Metrics to Weights & Biases."""

    type: Literal[Tracker.WANDB]
    wandb: WandbRun


class MlflowIntegration(_Part):
    """Metrics to MLflow."""

    type: Literal[Tracker.MLFLOW]
    mlflow: MlflowRun


class TensorboardIntegration(_Part):
    """Event files of TensorBoard. Every job has them, with or without this integration."""

    type: Literal[Tracker.TENSORBOARD]
    tensorboard: TensorboardFiles = TensorboardFiles()


Integration = Annotated[
    WandbIntegration | MlflowIntegration | TensorboardIntegration, Field(discriminator="type")
]
Integrations = Annotated[list[Integration], Field(max_length=len(Tracker))]

INTEGRATION: TypeAdapter[Integration] = TypeAdapter(Integration)


def name_of(integration: Integration) -> str:
    """Return the name of an integration, such as `mlflow:EXPERIMENT`, without run and tags."""
    match integration:
        case MlflowIntegration(mlflow=run):
            return f"{integration.type}:{run.experiment_name}"
        case WandbIntegration(wandb=run):
            owner = f"{run.entity}/" if run.entity else ""
            return f"{integration.type}:{owner}{run.project}"
        case _:
            return str(integration.type)


def text_of(integration: Integration) -> str:
    """Return the shortest text that `integration_of` reads as the same integration."""
    name = name_of(integration)
    if integration_of(name) == integration:
        return name
    return INTEGRATION.dump_json(integration, exclude_defaults=True).decode()


def require_different(integrations: Sequence[Integration]) -> None:
    """Raise Invalid if two integrations have the same type."""
    kinds = [each.type for each in integrations]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise Invalid(
                f"Two integrations have the type {kind.value!r}. A job has at most one of each "
                "type. Remove one.",
                field="integrations",
            )


def integration_of(text: str) -> Integration:
    """Return the integration in a text such as `mlflow:experiment`. Raise Invalid.

    `wandb:entity/project` names a team of Weights & Biases. An experiment can contain any
    character. A text that begins with a brace is an integration in JSON.
    """
    if text.lstrip().startswith("{"):
        return _of_json(text)
    kind, _, name = text.partition(":")
    try:
        tracker = Tracker(kind.strip())
    except ValueError:
        kinds = ", ".join(each.value for each in Tracker)
        raise Invalid(
            f"Unknown tracker {kind!r}. Use one of {kinds}, such as mlflow:experiment.",
            field="integrations",
        ) from None
    given: dict[str, object] = {"type": tracker}
    if tracker is Tracker.MLFLOW:
        given["mlflow"] = {"experiment_name": name}
    elif tracker is Tracker.WANDB:
        entity, _, project = name.rpartition("/")
        given["wandb"] = {"project": project, "entity": entity or None}
    elif name:
        raise Invalid(f"{text!r}: tensorboard has no name. Remove {name!r}.", field="integrations")
    try:
        return INTEGRATION.validate_python(given)
    except ValueError:
        what = "an experiment" if tracker is Tracker.MLFLOW else "a project, such as team/project"
        raise Invalid(
            f"{text!r} does not name {what}. Use 1 to {250 if tracker is Tracker.MLFLOW else 128} "
            + (
                "characters."
                if tracker is Tracker.MLFLOW
                else "letters, digits, dots, hyphens or underscores."
            ),
            field="integrations",
        ) from None


def _of_json(text: str) -> Integration:
    try:
        return INTEGRATION.validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(each) for each in problem["loc"][1:]) or "integration"
        raise Invalid(
            f"{text} is not an integration. {where}: {problem['msg']}. Write it as in the API, "
            'such as {"type": "mlflow", "mlflow": {"experiment_name": "bot", "run_name": "a"}}.',
            field="integrations",
        ) from None
