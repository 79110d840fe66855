"""The form of a fine-tuning job as OpenAI has it, with ours for all that it has no word for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from domain.core.errors import Invalid
from domain.training.hyperparameters import Hyperparameters
from gateway.http import openai_vocabulary as vocabulary
from gateway.launch.job_form import ModelSuffix

Auto = Literal["auto"]
AUTO: Auto = "auto"

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]

OURS = frozenset(Hyperparameters.model_fields) - {"seed"}
"""Hyperparameters under our own names, which the client sends by `extra_body`."""


class OpenAIHyperparameters(BaseModel):
    """What OpenAI has a word for; `auto` is our default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    n_epochs: Auto | int = AUTO
    batch_size: Auto | Annotated[int, Field(ge=1)] = AUTO
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0)] = AUTO


class Supervised(BaseModel):
    """The only method there is."""

    model_config = ConfigDict(extra="forbid")

    hyperparameters: OpenAIHyperparameters | None = None


class Method(BaseModel):
    """How to train."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["supervised"]
    supervised: Supervised | None = None


class CreateJob(BaseModel):
    """The body of a request for a job; unknown fields are found when it is translated."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str = Field(min_length=1, max_length=200)
    training_file: str
    validation_file: str | None = None
    hyperparameters: OpenAIHyperparameters | None = None
    method: Method | None = None
    suffix: ModelSuffix | None = None
    seed: int | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None
    region: str | None = Field(default=None, max_length=100)
    gpu_type: str | None = Field(default=None, max_length=100)
    gpu_count: int = Field(default=1, ge=1, le=64)

    def translated(self) -> Hyperparameters:
        """The hyperparameters as the wizard has them.

        Raises RequestValidationError for what is unknown or out of bounds, and Invalid for a number
        that is given twice.
        """
        given = dict(self.model_extra or {})
        unknown = sorted(given.keys() - OURS)
        if unknown:
            raise RequestValidationError(
                [{"loc": ("body", name), "msg": "there is no such field"} for name in unknown]
            )
        called: dict[str, str] = {}
        for name, value in self._numbers().items():
            for ours, translated in _ours(name, value, self.gpu_count).items():
                if ours in given:
                    raise Invalid(f"it says the same as {ours}; send one of them", field=name)
                given[ours] = translated
                called[ours] = name
        if self.seed is not None:
            given["seed"] = self.seed
        try:
            return Hyperparameters.model_validate(given)
        except ValidationError as error:
            raise RequestValidationError(_named(error, called)) from error

    def _numbers(self) -> Mapping[str, float]:
        """What is not `auto`, from either of the two places that OpenAI has for it."""
        supervised = self.method.supervised if self.method else None
        places = (self.hyperparameters, supervised.hyperparameters if supervised else None)
        numbers: dict[str, float] = {}
        for place in filter(None, places):
            for name, value in place.model_dump().items():
                if value == AUTO:
                    continue
                if numbers.setdefault(name, value) != value:
                    raise Invalid(
                        "`hyperparameters` and `method` say different things; send one of them",
                        field=name,
                    )
        return numbers


class ResumeJob(BaseModel):
    """What a resume may be told by `extra_body`; the client's own has no body."""

    model_config = ConfigDict(extra="allow", strict=True)

    gpu_count: int | None = Field(default=None, ge=1, le=64)

    def accepted(self) -> int | None:
        """GPUs to go on with, None for as many as before; refuses by name what cannot change."""
        fixed = sorted(self.model_extra or {})
        if fixed:
            raise RequestValidationError(
                [
                    {"loc": ("body", name), "msg": "a resume changes nothing but gpu_count"}
                    for name in fixed
                ]
            )
        return self.gpu_count


def _ours(name: str, value: Any, gpu_count: int) -> dict[str, Any]:
    """One of OpenAI's hyperparameters by our names."""
    if name == "n_epochs":
        return {"epochs": value}
    if name == "batch_size":
        return vocabulary.batch(value, gpu_count)
    return {"learning_rate": vocabulary.learning_rate(value)}


def _named(error: ValidationError, called: Mapping[str, str]) -> list[dict[str, Any]]:
    """The problems under the names that the request used."""
    return [
        {**each, "loc": ("body", called.get(str(each["loc"][0]), each["loc"][0]), *each["loc"][1:])}
        for each in error.errors()
    ]
