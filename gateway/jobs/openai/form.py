"""Request bodies of fine-tuning jobs: OpenAI's fields and EcoLink's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from domain.core.errors import Invalid
from domain.training.hyperparameters import SUPERVISED, Hyperparameters, names_of
from domain.training.integrations import Integrations
from gateway.http import openai_vocabulary as vocabulary
from gateway.jobs.launch.job_form import GpuCount, MaxCost, ModelSuffix

Auto = Literal["auto"]
AUTO: Auto = "auto"

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


class OpenAIHyperparameters(BaseModel, extra="forbid", strict=True, allow_inf_nan=False):
    """OpenAI's hyperparameters. `auto` selects EcoLink's default."""

    n_epochs: Auto | int = AUTO
    batch_size: Auto | Annotated[int, Field(ge=1)] = AUTO
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0)] = AUTO


class DPOHyperparameters(OpenAIHyperparameters):
    """OpenAI's hyperparameters of DPO."""

    beta: Auto | Annotated[float, Field(gt=0)] = AUTO


class Supervised(BaseModel, extra="forbid"):
    """Supervised fine-tuning on chats."""

    hyperparameters: OpenAIHyperparameters | None = None


class Preferences(BaseModel, extra="forbid"):
    """Direct preference optimization on preference pairs."""

    hyperparameters: DPOHyperparameters | None = None


class Method(BaseModel, extra="forbid"):
    """The training method, with its settings under the name of the type."""

    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Preferences | None = None

    @model_validator(mode="after")
    def _only_its_own(self) -> Method:
        other = {"supervised": self.dpo, "dpo": self.supervised}[self.type]
        if other is not None:
            raise PydanticCustomError(
                "settings_of_another_method",
                "The type is {type}. Send only the settings of this method",
                {"type": self.type},
            )
        return self

    @property
    def settings(self) -> OpenAIHyperparameters | None:
        """Hyperparameters of the method."""
        own = self.supervised if self.type == "supervised" else self.dpo
        return None if own is None else own.hyperparameters


class CreateJob(BaseModel, extra="allow", strict=True):
    """A request to create a job.

    Clients send EcoLink's hyperparameters in `extra_body`. A request with unknown fields fails.
    """

    model: str = Field(min_length=1, max_length=200, examples=["smollm2-135m-instruct"])
    training_file: str = Field(examples=["file-9b2d1c9e6d1f4a539a3e2f1c5d7e8a90"])
    validation_file: str | None = None
    hyperparameters: OpenAIHyperparameters | None = None
    method: Method | None = None
    suffix: ModelSuffix | None = Field(default=None, examples=["support"])
    seed: int | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    integrations: Integrations | None = None
    region: str | None = Field(default=None, max_length=100, examples=["local"])
    gpu_type: str | None = Field(default=None, max_length=100, examples=["cpu"])
    gpu_count: GpuCount = 1
    max_cost: MaxCost | None = Field(
        default=None,
        description="The job pauses before it costs more. Dollars. By default, charges stop at the "
        "upper bound of the estimate, and the job goes on.",
        examples=["12.50"],
    )

    def translated(self) -> Hyperparameters:
        """Return the hyperparameters under EcoLink's names.

        Raise RequestValidationError for unknown fields and values out of range, and Invalid for a
        value that is given twice.
        """
        given = dict(self.model_extra or {})
        called: dict[str, str] = {}
        if self.method is not None:
            given["method"] = self.method.type
        method = given.get("method", SUPERVISED)
        for name, value in self._numbers().items():
            for ours, translated in _ours(name, value, self.gpu_count, method).items():
                if given.keys() & names_of(ours):
                    raise Invalid(
                        f"This field means the same as {ours}. Send only one of the two.",
                        field=name,
                    )
                given[ours] = translated
                called[ours] = name
        if self.seed is not None:
            given["seed"] = self.seed
        try:
            return Hyperparameters.model_validate(given)
        except ValidationError as error:
            raise RequestValidationError(_named(error, called)) from error

    def _numbers(self) -> Mapping[str, float]:
        """Return the values that are not `auto`, from either of OpenAI's two fields."""
        places = (self.hyperparameters, self.method.settings if self.method else None)
        numbers: dict[str, float] = {}
        for place in filter(None, places):
            for name, value in place.model_dump().items():
                if value == AUTO:
                    continue
                if numbers.setdefault(name, value) != value:
                    raise Invalid(
                        "`hyperparameters` and `method` have different values. Send only one "
                        "of the two.",
                        field=name,
                    )
        return numbers


class ResumeJob(BaseModel, extra="allow", strict=True):
    """Options of a resume, sent in `extra_body`. By default, OpenAI's client sends no body."""

    gpu_count: GpuCount | None = None

    def accepted(self) -> int | None:
        """Return the requested number of GPUs, or None to keep it. Rejects other fields."""
        _require_none(
            self.model_extra or {}, "A resume can change only gpu_count. Remove the other fields."
        )
        return self.gpu_count


def _require_none(fields: Iterable[str], message: str) -> None:
    if problems := [{"loc": ("body", name), "msg": message} for name in sorted(fields)]:
        raise RequestValidationError(problems)


def _ours(name: str, value: Any, gpu_count: int, method: str) -> dict[str, Any]:
    """Translate one of OpenAI's hyperparameters to EcoLink's names."""
    if name == "n_epochs":
        return {"epochs": value}
    if name == "batch_size":
        return vocabulary.batch(value, gpu_count)
    if name == "beta":
        return {"beta": value}
    return {"learning_rate": vocabulary.learning_rate(value, method)}


def _named(error: ValidationError, called: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {**each, "loc": ("body", called.get(str(each["loc"][0]), each["loc"][0]), *each["loc"][1:])}
        for each in error.errors()
    ]
