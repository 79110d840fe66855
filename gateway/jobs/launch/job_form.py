"""The launch form: the request of a job."""

from __future__ import annotations

import hashlib
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from domain.core.errors import Invalid
from domain.core.money import micros_of
from domain.jobs.choices import Choices
from domain.training.hyperparameters import Hyperparameters
from domain.training.integrations import Integrations
from domain.training.training_plan import Order

GpuCount = Annotated[int, Field(ge=1, le=64)]
ModelSuffix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def max_cost_micros(text: str | None) -> int | None:
    """Return a maximum cost in micro-dollars. Raise Invalid if it is malformed."""
    return None if text is None else micros_of(text, field="max_cost")


def _max_cost(text: str) -> str:
    try:
        max_cost_micros(text)
    except Invalid as error:
        raise PydanticCustomError("amount", "{why}", {"why": error.message}) from None
    return text


MaxCost = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=40),
    AfterValidator(_max_cost),
]


class JobRequest(BaseModel):
    """A job to quote or approve. Omitted hyperparameters get the wizard's defaults.

    If you omit the region or GPU type, EcoLink picks the cheapest free one you can afford,
    otherwise the cheapest with a queue.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "dataset": "9b2d1c9e-6d1f-4a53-9a3e-2f1c5d7e8a90",
                    "base_model": "smollm2-135m-instruct",
                    "hyperparameters": {"epochs": 3, "learning_rate": 2e-4, "lora_r": 16},
                }
            ]
        },
    )

    dataset: UUID = Field(title="Dataset")
    validation_dataset: UUID | None = Field(
        default=None,
        title="Validation dataset",
        description="Another dataset to evaluate on. By default, EcoLink holds out a part of the "
        "dataset.",
    )
    base_model: str = Field(
        min_length=1,
        max_length=200,
        title="Base model",
        description="Name of a base model, or of your model or checkpoint to continue from.",
    )
    region: str | None = Field(default=None, max_length=100, title="Region")
    gpu_type: str | None = Field(default=None, max_length=100, title="GPU type")
    gpu_count: GpuCount = Field(default=1, strict=True, title="GPU count")
    hyperparameters: Hyperparameters = Hyperparameters()
    suffix: ModelSuffix | None = Field(
        default=None,
        title="Job name",
        description="Part of the model's name.",
        examples=["support"],
    )
    deploy: bool = Field(
        default=False, strict=True, description="Deploy the model after registration."
    )
    wait: bool = Field(
        default=False,
        strict=True,
        description="If the tokens are not counted or no GPU is free, let the job wait free of "
        "charge.",
    )

    max_cost: MaxCost | None = Field(
        default=None,
        title="Maximum cost",
        description="The job pauses before it costs more. Dollars, with at most six decimals. By "
        "default, charges stop at the upper bound of the estimate, and the job goes on.",
        examples=["12.50"],
    )

    integrations: Integrations = Field(
        default=[],
        title="Trackers",
        description="Trackers that receive the metrics of the job, in the form of OpenAI's "
        "`integrations`. Your account needs a connection to each.",
        examples=[[{"type": "mlflow", "mlflow": {"experiment_name": "support-bot"}}]],
    )

    @property
    def leaves_gpus_open(self) -> bool:
        """True if EcoLink must choose the region or the GPU type."""
        return self.region is None or self.gpu_type is None

    @property
    def choices(self) -> Choices:
        """Choices that determine the price. An omitted region or GPU type is empty."""
        return Choices(
            self.dataset,
            self.base_model,
            self.region or "",
            self.gpu_type or "",
            self.gpu_count,
            self.hyperparameters,
            self.validation_dataset,
        )

    @property
    def order(self) -> Order:
        """Choices that do not affect the price.

        If EcoLink chooses the GPUs, a repeated request can get different ones. The hash identifies
        such a repetition.
        """
        # The order itself has the maximum cost.
        left_out = {"wait", "max_cost", *(() if self.integrations else ("integrations",))}
        asked = self.model_dump_json(exclude=left_out).encode()
        request_sha256 = hashlib.sha256(asked).hexdigest() if self.leaves_gpus_open else None
        return Order(
            suffix=self.suffix,
            deploy=self.deploy,
            request_sha256=request_sha256,
            max_cost_micros=max_cost_micros(self.max_cost),
        )
