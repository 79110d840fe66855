"""LoRA hyperparameters. This module is the only place that declares them.

Everything that lists hyperparameters is derived from `Hyperparameters`: the inputs and messages of
the wizard, the form of `/api` and its schema, the options of `ecolink jobs launch`, the names that
`/v1` accepts in `extra_body`, the copied snippets, the settings on the job and comparison pages,
and the model card. To add a hyperparameter, declare it here and make the trainer use it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

Schedule = Literal["cosine", "linear", "constant", "constant_with_warmup"]
Method = Literal["supervised", "dpo"]
SUPERVISED: Method = "supervised"
DPO: Method = "dpo"
METHODS: Mapping[JsonValue, str] = {SUPERVISED: "supervised", DPO: "DPO"}
"""Display names of the methods."""

DPO_DEFAULTS: Mapping[str, float] = {"learning_rate": 2e-5, "beta": 0.1}
"""Defaults of DPO: smaller steps than cross entropy. Beta: Rafailov et al. (2023) and TRL."""

HUGGING_FACE: Mapping[str, str] = {
    "epochs": "num_train_epochs",
    "lora_r": "r",
    "micro_batch_size": "per_device_train_batch_size",
    "dropout": "lora_dropout",
    "gradient_accumulation": "gradient_accumulation_steps",
    "max_sequence_length": "max_length",
    "schedule": "lr_scheduler_type",
    "warmup_share": "warmup_ratio",
    "n_checkpoints": "save_total_limit",
}
"""Names in transformers, PEFT and TRL that a job may use instead of ours, if they differ."""

MOST_WRONG_NAMES = 10
"""Number of wrong names that one error reports. To compare a name with all others takes time."""

ALL_LINEAR = "all-linear"
"""Target modules that mean all linear layers of the base model, as in PEFT."""

ModuleName = Annotated[str, Field(pattern=r"^([A-Za-z0-9_.]{1,100}|all-linear)$")]


def _listed(value: object) -> object:
    return (value,) if value == ALL_LINEAR else value


class Group(StrEnum):
    """The section of a form that shows a hyperparameter."""

    BASIC = "LoRA"  # shown by default in the wizard
    ADVANCED = "Advanced"  # shown under "Advanced" in the wizard
    API = "API and CLI only"  # not shown; the wizard copies the value from another job


class Affects(StrEnum):
    """The part of a quote that a hyperparameter affects. Memory also determines the price."""

    NEITHER = "neither"
    PRICE = "price"
    MEMORY = "memory"


@dataclass(frozen=True)
class Use:
    """The role of a hyperparameter in forms and quotes."""

    group: Group
    affects: Affects = Affects.MEMORY
    only_if_set: bool = False  # events, pages and the API omit it at its default


def names_of(name: str) -> tuple[str, ...]:
    """Return the names of a hyperparameter in requests: ours, then that of Hugging Face."""
    return (name, HUGGING_FACE[name]) if name in HUGGING_FACE else (name,)


class Hyperparameters(BaseModel):
    """The hyperparameters of one job.

    They also accept the names of Hugging Face libraries, such as `num_train_epochs`. Responses have
    the names listed here. Validation rejects unknown fields, non-finite numbers and values of the
    wrong type, with one error for each field.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(*names_of(name))),
    )

    method: Annotated[Method, Use(Group.API, only_if_set=True)] = Field(
        default=SUPERVISED,
        title="Method",
        description="`supervised` trains on chats, and `dpo` (direct preference optimization) on "
        "preference pairs.",
    )
    epochs: Annotated[int, Use(Group.BASIC, Affects.PRICE)] = Field(
        default=3, ge=1, le=100, title="Epochs", description="Number of passes over the dataset."
    )
    learning_rate: Annotated[float, Use(Group.BASIC, Affects.NEITHER)] = Field(
        default=2e-4,
        gt=0,
        le=1,
        title="Learning rate",
        description="Peak step size during training. 10× a full fine-tuning learning rate is "
        "typical for LoRA SFT. DPO needs a tenth of it, 2e-5 by default.",
    )
    beta: Annotated[float | None, Use(Group.BASIC, Affects.NEITHER, only_if_set=True)] = Field(
        default=None,
        gt=0,
        le=10,
        title="Beta",
        description="DPO only: how strongly the model stays close to the one it starts from. "
        "Usual values are 0.01 to 0.5. The default is 0.1.",
    )
    lora_r: Annotated[int, Use(Group.BASIC)] = Field(
        default=16,
        ge=1,
        le=512,
        title="LoRA r",
        description="Rank of the adapter. A higher rank increases its capacity and its size.",
    )
    lora_alpha: Annotated[int, Use(Group.BASIC)] = Field(
        default=32,
        ge=1,
        le=1024,
        title="LoRA alpha",
        description="Scaling factor for the adapter, usually 2 × r, or 2 × √r with "
        "rank-stabilized LoRA.",
    )
    micro_batch_size: Annotated[int, Use(Group.BASIC)] = Field(
        default=4,
        ge=1,
        le=256,
        title="Micro batch size",
        description="Number of examples per batch on each GPU.",
    )
    load_best_model_at_end: Annotated[bool, Use(Group.BASIC, Affects.PRICE, only_if_set=True)] = (
        Field(
            default=False,
            title="Register the best state",
            description="Register the evaluated state with the lowest held-out loss, instead of "
            "the final state.",
        )
    )
    dropout: Annotated[float, Use(Group.ADVANCED, Affects.NEITHER)] = Field(
        default=0.05,
        ge=0,
        lt=1,
        title="Dropout",
        description="Regularization of the adapter. Usual values are 0.0 to 0.1.",
    )
    use_rslora: Annotated[bool, Use(Group.ADVANCED, Affects.NEITHER)] = Field(
        default=False,
        title="Rank-stabilized LoRA",
        description="Scale the adapter by alpha/√r instead of alpha/r, which suits high ranks.",
    )
    use_dora: Annotated[bool, Use(Group.ADVANCED, only_if_set=True)] = Field(
        default=False,
        title="DoRA",
        description="Also train the magnitude of each adapted weight. It can learn more at a low "
        "rank, and takes longer.",
    )
    target_modules: Annotated[
        tuple[ModuleName, ...], BeforeValidator(_listed), Use(Group.ADVANCED)
    ] = Field(
        default=("q_proj", "v_proj"),
        min_length=1,
        max_length=32,
        strict=False,
        title="Target modules",
        description="Projection layers that the adapter modifies. `all-linear` means all linear "
        "layers of the base model.",
    )
    gradient_accumulation: Annotated[int, Use(Group.ADVANCED, Affects.PRICE)] = Field(
        default=4,
        ge=1,
        le=1024,
        title="Gradient accumulation",
        description="Micro-batches per optimizer step. A larger number increases the effective "
        "batch, but not the memory use.",
    )
    max_sequence_length: Annotated[int | None, Use(Group.ADVANCED)] = Field(
        default=None,
        ge=16,
        le=1_048_576,
        title="Max sequence length",
        description="EcoLink truncates examples with more tokens than this. The default is the "
        "base model's context.",
    )
    schedule: Annotated[Schedule, Use(Group.API)] = Field(
        default="cosine",
        title="Schedule",
        description="Function by which the learning rate falls to zero after the warm-up. It stays "
        "at its peak with `constant_with_warmup`, and with `constant`, which has no warm-up.",
    )
    warmup_share: Annotated[float, Use(Group.API)] = Field(
        default=0.03,
        ge=0,
        le=0.5,
        title="Warm-up share",
        description="Share of the steps in which the learning rate rises to its peak.",
    )
    weight_decay: Annotated[float, Use(Group.API)] = Field(
        default=0.01,
        ge=0,
        le=1,
        title="Weight decay",
        description="AdamW weight decay on the adapter's weights.",
    )
    max_grad_norm: Annotated[float, Use(Group.API)] = Field(
        default=1.0,
        gt=0,
        le=1000,
        title="Max gradient norm",
        description="Training scales larger gradients down to this norm.",
    )
    save_steps: Annotated[int, Use(Group.ADVANCED, Affects.PRICE)] = Field(
        default=50,
        ge=1,
        le=100_000,
        title="Save steps",
        description="Number of optimizer steps between two checkpoints.",
    )
    eval_steps: Annotated[int | None, Use(Group.ADVANCED, Affects.PRICE)] = Field(
        default=None,
        ge=1,
        le=100_000,
        title="Eval steps",
        description="Number of optimizer steps between two evaluations on held-out examples. The "
        "default is the number of save steps. EcoLink also saves a step that has the lowest loss "
        "so far.",
    )
    early_stopping_patience: Annotated[
        int | None, Use(Group.ADVANCED, Affects.PRICE, only_if_set=True)
    ] = Field(
        default=None,
        ge=1,
        le=1000,
        title="Early stopping patience",
        description="Stop training after this number of evaluations in a row that do not lower "
        "the held-out loss. By default, training never stops early.",
    )
    early_stopping_threshold: Annotated[
        float, Use(Group.ADVANCED, Affects.NEITHER, only_if_set=True)
    ] = Field(
        default=0.0,
        ge=0,
        le=100,
        title="Early stopping threshold",
        description="Smallest decrease of the lowest held-out loss that counts for early "
        "stopping, in nats per token.",
    )
    n_checkpoints: Annotated[int | None, Use(Group.ADVANCED, Affects.NEITHER, only_if_set=True)] = (
        Field(
            default=None,
            ge=1,
            le=20,
            title="Checkpoints to keep",
            description="Number of newest checkpoints to keep, besides the one with the lowest "
            "held-out loss. The default is 2 while the job runs, and 1 after it has a model. "
            "A running job always keeps at least 2.",
        )
    )
    seed: Annotated[int, Use(Group.ADVANCED, Affects.NEITHER)] = Field(
        default=42,
        ge=0,
        le=2**32 - 1,
        title="Seed",
        description="Seed of the data order, dropout and initialization, for reproducibility.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _with_hints(cls, given: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """Explain unknown names in errors. A reader of another version ignores them."""
        try:
            return read(given)
        except ValidationError as error:
            found = error.errors(include_url=False)
            wrong = [each for each in found if each["type"] == "extra_forbidden"]
            if not wrong:
                raise
        details = [
            InitErrorDetails(
                type=_unknown(each["loc"], given), loc=each["loc"], input=each["input"]
            )
            for each in wrong[:MOST_WRONG_NAMES]
        ]
        details += [
            InitErrorDetails(
                type=PydanticCustomError(each["type"], each["msg"]),  # type: ignore[arg-type]
                loc=each["loc"],
                input=each["input"],
            )
            for each in found
            if each["type"] != "extra_forbidden"
        ]
        raise ValidationError.from_exception_data(cls.__name__, details)

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_method(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        values: dict[str, Any] = {n: v for n, v in given.items() if n != "beta" or v is not None}  # pyright: ignore[reportUnknownVariableType]
        return {**DPO_DEFAULTS, **values} if values.get("method") == DPO else values

    @field_validator("beta")
    @classmethod
    def _only_with_dpo(cls, beta: float | None, info: ValidationInfo) -> float | None:
        if beta is not None and info.data.get("method", DPO) != DPO:
            raise PydanticCustomError(
                "beta_without_dpo", "Beta needs the method dpo. Set the method to dpo, or omit beta"
            )
        return beta

    @classmethod
    def recorded(cls, values: Mapping[str, JsonValue]) -> Hyperparameters:
        """Return a stored job's hyperparameters, without validation: bounds may have changed."""
        modules = values["target_modules"]
        assert isinstance(modules, list)
        return cls.model_construct(None, **dict(values) | {"target_modules": tuple(modules)})

    @property
    def stored(self) -> dict[str, JsonValue]:
        """Values to store in events."""
        values = self.model_dump(mode="json")
        return {
            n: v for n, v in values.items() if not use_of(n).only_if_set or v != FIELDS[n].default
        }

    def with_modules_of(self, linear_modules: Iterable[str]) -> Hyperparameters:
        """Return a copy that names all linear layers of the base model instead of `all-linear`."""
        if ALL_LINEAR not in self.target_modules:
            return self
        return self.model_copy(update={"target_modules": tuple(linear_modules)})

    @property
    def sequences_per_example(self) -> int:
        """Number of token sequences of an example. DPO trains on both answers of a pair."""
        return 2 if self.method == DPO else 1

    @property
    def adapter_scale(self) -> float:
        """Scale of the adapter's output: alpha / r, or alpha / sqrt(r) with rsLoRA.

        Sources: Hu et al., LoRA (2021); Kalajdzievski, Rank Stabilization Scaling Factor (2023).
        """
        return self.lora_alpha / (math.sqrt(self.lora_r) if self.use_rslora else self.lora_r)

    @property
    def usual_alpha(self) -> int:
        """Alpha with which the adapter's scale is about 2: 2 x r, or 2 x sqrt(r) with rsLoRA."""
        return usual_alpha(self.lora_r, self.use_rslora)

    @property
    def evaluation_steps(self) -> int:
        """Number of optimizer steps between two evaluations."""
        return self.eval_steps or self.save_steps

    def earliest_stop(self, total_steps: int, after: int = 0) -> int:
        """Return the first step from `after` on at which training can end, early or as planned."""
        if self.early_stopping_patience is None:
            return total_steps
        interval = self.evaluation_steps
        first = (1 + self.early_stopping_patience) * interval
        return min(total_steps, max(first, math.ceil(after / interval) * interval))

    def examples_per_step(self, ranks: int) -> int:
        """Return the effective batch size: the examples of a full step on all GPUs."""
        return self.micro_batch_size * self.gradient_accumulation * ranks


def usual_alpha(lora_r: int, use_rslora: bool) -> int:
    """Return the alpha with which the scale of an adapter is about 2."""
    return 2 * lora_r if not use_rslora else round(2 * math.sqrt(lora_r))


FIELDS: Mapping[str, FieldInfo] = Hyperparameters.model_fields


def _unknown(place: tuple[int | str, ...], given: Mapping[str, Any]) -> PydanticCustomError:
    """Return the error of a name that is unknown, or means the same as another given one."""
    name = str(place[-1])
    if OURS.get(name) in given:
        return PydanticCustomError(
            "same_hyperparameter",
            "This field means the same as {ours}. Send only one of the two",
            {"ours": OURS[name]},
        )
    known = [each for ours in FIELDS for each in names_of(ours)]
    hint = "See the reference of hyperparameters"
    if nearest := get_close_matches(name, known, n=1):
        hint = f"Did you mean {nearest[0]}?"
    return PydanticCustomError("unknown_hyperparameter", "Unknown field. {hint}", {"hint": hint})


OURS: Mapping[str, str] = {theirs: ours for ours, theirs in HUGGING_FACE.items()}
"""Our names of hyperparameters, by those of Hugging Face."""


def use_of(name: str) -> Use:
    """Return the role of a hyperparameter in forms and quotes."""
    return next(each for each in FIELDS[name].metadata if isinstance(each, Use))


def names_in(*groups: Group) -> tuple[str, ...]:
    """Return the names of the hyperparameters in the given groups, in declaration order."""
    return tuple(name for name in FIELDS if use_of(name).group in groups)


def title_of(name: str) -> str:
    """Return the title of a hyperparameter, including those that only old jobs have."""
    title = FIELDS[name].title if name in FIELDS else None
    return title or name.replace("_", " ").capitalize()


def settings_of(recorded: Mapping[str, JsonValue]) -> dict[str, str]:
    """Return the values of a job's hyperparameters for display, by title, without unset ones."""
    order = [name for name in FIELDS if name in recorded]
    order += [name for name in recorded if name not in FIELDS]
    return {title_of(n): written(recorded[n], n) for n in order if recorded[n] is not None}


def written(value: JsonValue | tuple[str, ...], name: str = "") -> str:
    """Return a value of `name` for display: lists with commas, and a dash for an unset one."""
    match value:
        case str() if name == "method":
            return METHODS.get(value, value)
        case None:
            return "—"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)
