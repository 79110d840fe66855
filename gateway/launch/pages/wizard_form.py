"""The wizard's form as a browser sends it: what was typed, and what the API would take it for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from domain.training.hyperparameters import Hyperparameters
from domain.training.training_plan import Order, TrainingPlan
from gateway.launch.job_form import JobRequest
from gateway.launch.pages.wizard_fields import (
    FIELDS,
    TIER_1,
    TIER_2,
    UNSEEN,
    WEIGHTLESS,
    is_number,
    is_whole,
    wanted,
)
from infrastructure.drafts import Revision

WHOLE = re.compile(r"[+-]?[0-9]{1,15}")
DECIMAL = re.compile(r"[+-]?([0-9]{1,15}\.?[0-9]{0,30}|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?")
SUFFIX_WANTED = "Job name must be 1 to 64 letters, digits, dots, hyphens or underscores."
CHOSEN_WANTED = {
    "target_modules": "Target modules must be at least one; q_proj and v_proj are the default.",
    "schedule": "Schedule must be cosine or linear.",
}
MOST_GPUS = 64
COUNT_WANTED = f"GPU count must be a whole number from 1 to {MOST_GPUS}."
CHOICES = {
    "dataset": "a dataset",
    "base_model": "a base model",
    "gpu_type": "a GPU type",
    "region": "a region",
}
FOLLOW = "follow"
UNCHOSEN = frozenset({"alpha_followed", "command_key", "made", "seen", "tab", "revision"})
"""What the form holds besides that."""

Entry = Annotated[str, StringConstraints(strip_whitespace=True, max_length=300)]


class Entries(BaseModel):
    """What the fields hold, as typed; empty is what nobody filled in."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    dataset: Entry = ""
    validation_dataset: Entry = ""
    base_model: Entry = ""
    suffix: Entry = ""
    gpu_type: Entry = ""
    gpu_count: Entry = ""
    region: Entry = ""
    epochs: Entry = ""
    learning_rate: Entry = ""
    lora_r: Entry = ""
    lora_alpha: Entry = ""
    micro_batch_size: Entry = ""
    dropout: Entry = ""
    target_modules: Annotated[list[Entry], Field(max_length=64)] = []
    gradient_accumulation: Entry = ""
    max_sequence_length: Entry = ""
    save_steps: Entry = ""
    seed: Entry = ""
    # What the page does not ask for: kept of a job that this one is like.
    schedule: Entry = ""
    warmup_share: Entry = ""
    weight_decay: Entry = ""
    max_grad_norm: Entry = ""
    eval_steps: Entry = ""
    deploy: Entry = ""
    wait: Entry = ""
    alpha_followed: Entry = ""
    """What alpha was when it last followed r; empty once it was touched."""
    command_key: Entry = ""
    """Makes what this form approves one job, however often it is sent."""
    made: Entry = ""
    """The job that it has made already, before something was changed in it."""
    seen: Entry = ""
    """Which estimate was shown."""
    tab: Entry = ""
    """The page as it was once loaded."""
    revision: Entry = ""
    """How often the fields were changed since."""

    @classmethod
    def fresh(cls, base_model: str, region: str, gpu_type: str) -> Entries:
        """The defaults; the hyperparameters are the API's own."""
        tuned = tuning_entries(Hyperparameters())
        return cls(
            base_model=base_model,
            region=region,
            gpu_type=gpu_type,
            gpu_count="1",
            alpha_followed=tuned["lora_alpha"],
            command_key=str(uuid4()),
            **{name: tuned[name] for name in (*TIER_1, *TIER_2)},
        )

    @classmethod
    def like(cls, plan: TrainingPlan, gpu_count: int, order: Order) -> Entries:
        """Everything that a job was approved with."""
        lora = plan.lora
        tuned, default = tuning_entries(lora), tuning_entries(Hyperparameters())
        kept = {name for name in UNSEEN if tuned[name] != default[name]}
        return cls(
            dataset=str(plan.dataset_id),
            validation_dataset=str(plan.validation.dataset_id) if plan.validation else "",
            base_model=plan.base_model,
            suffix=order.suffix or "",
            region=plan.region,
            gpu_type=plan.gpu_type,
            gpu_count=str(gpu_count),
            deploy="true" if order.deploy else "",
            alpha_followed=tuned["lora_alpha"] if lora.lora_alpha == 2 * lora.lora_r else "",
            command_key=str(uuid4()),
            **{name: tuned[name] for name in (*TIER_1, *TIER_2, *kept)},
        )

    def followed(self) -> Entries:
        """With an alpha of 2 x r, as long as nobody touched it."""
        if self.alpha_followed == "" or self.lora_alpha != self.alpha_followed:
            return self.model_copy(update={"alpha_followed": ""})
        return self._following()

    def chosen(self, choice: str) -> Entries:
        """With the fields that one click sets, such as `region=local&gpu_type=l4`."""
        given = dict(parse_qsl(choice[:500]))
        if given.pop("lora_alpha", None) == FOLLOW:
            return self._following()
        return self.model_copy(update={name: given[name] for name in given if name in FIELDS})

    def renewed(self, made: str = "") -> Entries:
        """The same entries as a form whose next job is another than the one that was `made`."""
        return self.model_copy(update={"command_key": str(uuid4()), "made": made})

    def opened(self) -> Entries:
        """The same entries on a page that is loaded now."""
        return self.model_copy(update={"tab": str(uuid4()), "revision": "0"})

    @property
    def state(self) -> Revision:
        """Which form this is of, and how old."""
        number = int(self.revision) if WHOLE.fullmatch(self.revision) else 0
        return Revision(self.tab, number)

    def same_as(self, other: Entries) -> bool:
        """Whether all that a person chose is the same."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in type(self).model_fields
            if name not in UNCHOSEN
        )

    def _following(self) -> Entries:
        if not WHOLE.fullmatch(self.lora_r):
            return self
        alpha = str(2 * int(self.lora_r))
        return self.model_copy(update={"lora_alpha": alpha, "alpha_followed": alpha})

    @property
    def unseen(self) -> dict[str, str]:
        """What is kept of another job and the page does not ask for, by its name for people."""
        kept = {UNSEEN[name]: getattr(self, name) for name in UNSEEN if getattr(self, name)}
        return kept | ({"deployed as soon as it is registered": ""} if self.deploy else {})


def tuning_entries(tuned: Hyperparameters) -> dict[str, Any]:
    """Hyperparameters as one would type them."""
    return {name: _typed(value) for name, value in tuned.model_dump().items()}


def _typed(value: Any) -> str | list[str]:
    match value:
        case None:
            return ""
        case tuple():
            return [str(each) for each in value]
        case float() if 0 < abs(value) < 1e-3:
            mantissa, _, exponent = f"{value:.12e}".partition("e")
            return f"{float(mantissa):g}e{int(exponent)}"
        case float():
            return f"{value:.12g}"
        case _:
            return str(value)


@dataclass(frozen=True)
class Reading:
    """What the API would take the entries for, and what keeps it from doing so."""

    request: JobRequest | None
    """None while something is missing, or wrong in a field that memory or price depends on.

    Wrong fields that they do not depend on have their defaults in it.
    """
    missing: tuple[str, ...]
    problems: Mapping[str, str]
    """What is wrong with a field, as a sentence."""


def read(entries: Entries) -> Reading:
    """Read what was typed; whether what it names exists is not looked at."""
    problems: dict[str, str] = {}
    missing = tuple(CHOICES[name] for name in CHOICES if not getattr(entries, name))
    tuned = _tuned(entries, problems)
    body: dict[str, Any] = {
        "base_model": entries.base_model,
        "region": entries.region,
        "gpu_type": entries.gpu_type,
        "hyperparameters": tuned,
        "deploy": bool(entries.deploy),
        "wait": bool(entries.wait),
    }
    for name in ("dataset", "validation_dataset"):
        body[name] = identified(getattr(entries, name))
        if getattr(entries, name) and body[name] is None:
            problems[name] = "This dataset is no longer there; choose another."
    if (count := gpu_count_of(entries.gpu_count)) is not None:
        body["gpu_count"] = count
    else:
        problems["gpu_count"] = COUNT_WANTED
    if entries.suffix and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", entries.suffix) is None:
        problems["suffix"] = SUFFIX_WANTED
    elif entries.suffix:
        body["suffix"] = entries.suffix
    complete = not missing and problems.keys() <= WEIGHTLESS
    return Reading(JobRequest.model_validate(body) if complete else None, missing, problems)


def gpu_count_of(text: str) -> int | None:
    """The number of GPUs that was typed; None if no job may have so many."""
    count = int(text) if WHOLE.fullmatch(text) else 0
    return count if 1 <= count <= MOST_GPUS else None


def identified(text: str) -> UUID | None:
    """The id that was chosen in a list."""
    try:
        return UUID(text)
    except ValueError:
        return None


def _tuned(entries: Entries, problems: dict[str, str]) -> Hyperparameters:
    """The hyperparameters, with the defaults of those that are wrong; notes what is."""
    given: dict[str, Any] = {"target_modules": entries.target_modules}
    optional = {*UNSEEN, "max_sequence_length"}
    for name in Hyperparameters.model_fields:
        text = getattr(entries, name)
        if name == "target_modules" or (name in optional and not text):
            continue
        if not is_number(name):
            given[name] = text
        elif (WHOLE if is_whole(name) else DECIMAL).fullmatch(text):
            given[name] = int(text) if is_whole(name) else float(text)
        else:
            problems[name] = wanted(name)
    try:
        return Hyperparameters.model_validate(given)
    except ValidationError as error:
        for each in error.errors():
            name = str(each["loc"][0])
            problems[name] = wanted(name) if is_number(name) else CHOSEN_WANTED[name]
    return Hyperparameters.model_validate({n: given[n] for n in given if n not in problems})
