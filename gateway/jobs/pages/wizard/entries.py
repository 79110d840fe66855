"""The entries of the wizard's form, and their conversion to a job request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_origin
from urllib.parse import parse_qsl
from uuid import uuid4

from pydantic import (
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.fields import FieldInfo

from domain.core.errors import Invalid
from domain.datasets.dataset import DatasetKind
from domain.training import hyperparameters
from domain.training.hyperparameters import (
    DPO,
    SUPERVISED,
    Affects,
    Group,
    Hyperparameters,
    title_of,
    use_of,
    usual_alpha,
)
from domain.training.integrations import (
    REMOTE,
    Integration,
    Integrations,
    Tracker,
    integration_of,
    name_of,
)
from domain.training.start import SHAPE
from gateway.jobs.launch.integrations import has_receiver
from gateway.jobs.launch.job_form import GpuCount, JobRequest
from infrastructure.training.drafts import Revision

FIELDS: Mapping[str, FieldInfo] = {
    name: field
    for name, field in {
        **JobRequest.model_fields,
        **hyperparameters.FIELDS,
        Tracker.MLFLOW: FieldInfo(
            default="",
            title="MLflow experiment",
            description="Optional: gets the metrics of the job.",
        ),
        Tracker.WANDB: FieldInfo(
            default="",
            title="Weights & Biases project",
            description="Optional: gets the metrics of the job. Enter project or team/project.",
        ),
    }.items()
    if name not in ("hyperparameters", "integrations")
}
"""The fields of the form, with their titles and descriptions."""

REQUIRED = {
    "dataset": "a dataset",
    "base_model": "a base model",
    "gpu_type": "a GPU type",
    "region": "a region",
}
GONE_DATASET = "This dataset no longer exists. Choose another one."
MESSAGES = {
    "suffix": "Enter 1 to 64 letters, digits, dots, hyphens or underscores.",
    "max_cost": "Enter an amount in dollars, such as 12.50.",
    "target_modules": "Select at least one, such as q_proj and v_proj.",
}
"""Messages for invalid values of fields without numeric bounds."""

TRACKED = {
    Tracker.MLFLOW: "Enter at most 250 characters.",
    Tracker.WANDB: "Enter a project, or a team and a project such as team/project: letters, "
    "digits, dots, hyphens or underscores.",
}
"""Messages for invalid names of experiments and projects."""

UNPRICED = {"suffix", "max_cost", *REMOTE} | {
    n for n in hyperparameters.FIELDS if use_of(n).affects == Affects.NEITHER
}
"""Fields that do not affect the price. The page shows the price even if they are invalid."""
WEIGHTLESS = UNPRICED | {n for n in hyperparameters.FIELDS if use_of(n).affects == Affects.PRICE}
"""Fields that do not affect memory use."""

COPIED: TypeAdapter[list[Integration]] = TypeAdapter(Integrations)
FOLLOW = "follow"
MOST_REVISION = 2**53
IN_WIZARD = hyperparameters.names_in(Group.BASIC, Group.ADVANCED)
ONLY_IN_API = hyperparameters.names_in(Group.API)
BOOKKEEPING = frozenset({"alpha_followed", "command_key", "made", "seen", "tab", "revision"})
"""Hidden fields of the form, which are not choices of the user."""

Entry = Annotated[str, StringConstraints(strip_whitespace=True, max_length=300)]
Entered = Annotated[list[Entry], Field(max_length=64)]

_hyperparameters: dict[str, Any] = {
    name: (Entered, []) if get_origin(field.annotation) is tuple else (Entry, "")
    for name, field in hyperparameters.FIELDS.items()
}
_Hyperparameters: Any = create_model("_Hyperparameters", **_hyperparameters)


class Entries(_Hyperparameters):
    """The form as the user entered it. Blank fields are empty strings."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    dataset: Entry = ""
    validation_dataset: Entry = ""
    base_model: Entry = ""
    suffix: Entry = ""
    gpu_type: Entry = ""
    gpu_count: Entry = ""
    region: Entry = ""
    deploy: Entry = ""
    wait: Entry = ""
    mlflow: Entry = ""
    """Experiment of MLflow that gets the metrics."""
    wandb: Entry = ""
    """Project of Weights & Biases that gets the metrics, or `team/project`."""
    copied_integrations: Annotated[str, StringConstraints(max_length=20_000)] = ""
    """JSON of the integrations of a copied request, whose names of runs and tags have no input."""
    max_cost: Entry = ""
    """The maximum cost in dollars. If it is empty, there is none."""
    alpha_followed: Entry = ""
    """The alpha that was automatically set, by r; empty once the user changed it."""
    command_key: Entry = ""
    """Idempotency key of the approval, so that a form creates at most one job."""
    made: Entry = ""
    """ID of the job that an earlier version of this form created."""
    seen: Entry = ""
    """Hash of the estimate that the user saw."""
    tab: Entry = ""
    """ID of this page load."""
    revision: int = Field(default=0, ge=0, le=MOST_REVISION)
    """Number of changes since the page load."""

    @classmethod
    def fresh(cls, base_model: str, region: str, gpu_type: str) -> Entries:
        """Return a form with the defaults of all hyperparameters."""
        tuned = typed(Hyperparameters())
        return cls(
            base_model=base_model,
            region=region,
            gpu_type=gpu_type,
            gpu_count="1",
            alpha_followed=tuned["lora_alpha"],
            command_key=str(uuid4()),
            **{name: tuned[name] for name in IN_WIZARD},
        )

    @classmethod
    def of_request(cls, request: JobRequest) -> Entries:
        """Return a form with all choices of a request."""
        lora, validation = request.hyperparameters, request.validation_dataset
        tuned, default = typed(lora), typed(Hyperparameters())
        changed = [name for name in ONLY_IN_API if tuned[name] != default[name]]
        return cls(
            dataset=str(request.dataset),
            validation_dataset="" if validation is None else str(validation),
            base_model=request.base_model,
            suffix=request.suffix or "",
            region=request.region or "",
            gpu_type=request.gpu_type or "",
            gpu_count=str(request.gpu_count),
            deploy="true" if request.deploy else "",
            wait="true" if request.wait else "",
            max_cost=request.max_cost or "",
            alpha_followed=tuned["lora_alpha"] if lora.lora_alpha == lora.usual_alpha else "",
            command_key=str(uuid4()),
            **_names_of(request.integrations),
            copied_integrations=_document(request.integrations),
            **{name: tuned[name] for name in (*IN_WIZARD, *changed)},
        )

    def training_on(self, kind: DatasetKind) -> Entries:
        """Return the entries with a dataset's method, and its default rate unless one was set."""
        method = DPO if kind is DatasetKind.PREFERENCES else ""
        if method == self.method:
            return self
        before, now = (
            typed(Hyperparameters(method=each or SUPERVISED)) for each in (self.method, method)
        )
        unchanged = _same_number(self.learning_rate, before["learning_rate"])
        rate = now["learning_rate"] if unchanged else self.learning_rate
        return self.model_copy(
            update={"method": method, "beta": now["beta"], "learning_rate": rate}
        )

    def continuing(self, parent: Hyperparameters) -> Entries:
        """Return the entries with the shape of the adapter that the job continues."""
        tuned = typed(parent)
        follows = tuned["lora_alpha"] if parent.lora_alpha == parent.usual_alpha else ""
        shape = {name: tuned[name] for name in SHAPE}
        return self.model_copy(update={**shape, "alpha_followed": follows})

    def followed(self) -> Entries:
        """Return the entries with the usual alpha, unless the user chose another one."""
        if self.alpha_followed == "" or self.lora_alpha != self.alpha_followed:
            return self.model_copy(update={"alpha_followed": ""})
        return self._following()

    def chosen(self, choice: str) -> Entries:
        """Return the entries updated from a query string, such as `region=local&gpu_type=l4`."""
        given = dict(parse_qsl(choice[:500]))
        if given.pop("lora_alpha", None) == FOLLOW:
            return self._following()
        update: dict[str, Any] = {name: given[name] for name in given if name in FIELDS}
        if modules := update.get("target_modules"):
            update["target_modules"] = modules.split(",")
        return self.model_copy(update=update)

    def renewed(self, made: str = "") -> Entries:
        """Return the same entries with a new command key, for another job after `made`."""
        return self.model_copy(update={"command_key": str(uuid4()), "made": made})

    def opened(self) -> Entries:
        return self.model_copy(update={"tab": str(uuid4()), "revision": 0})

    @property
    def state(self) -> Revision:
        """Page load that sent the form, and the revision of the form."""
        return Revision(self.tab, self.revision)

    def same_as(self, other: Entries) -> bool:
        own, others = (each.model_dump(exclude=set(BOOKKEEPING)) for each in (self, other))
        return own == others

    @property
    def tracked(self) -> dict[Tracker, str]:
        """The names of experiments and projects by tracker."""
        return {each: name for each in REMOTE if (name := getattr(self, each))}

    def _following(self) -> Entries:
        if not self.lora_r.isdecimal():
            return self
        alpha = str(usual_alpha(int(self.lora_r), bool(self.use_rslora)))
        return self.model_copy(update={"lora_alpha": alpha, "alpha_followed": alpha})

    @property
    def carried(self) -> dict[str, str]:
        """Entries that were copied from another job and have no input on the page, by title."""
        kept = {
            title_of(n): getattr(self, n)
            for n in ONLY_IN_API
            if getattr(self, n) and n != "method"  # which follows the dataset
        }
        return kept | ({"Runs and tags of trackers": ""} if self.copied_integrations else {})


def _names_of(integrations: Iterable[Integration]) -> dict[str, str]:
    named = (name_of(each).partition(":") for each in integrations if each.type in REMOTE)
    return {tracker: name for tracker, _, name in named}


def _same_number(entry: str, other: str) -> bool:
    try:
        return float(entry) == float(other)
    except ValueError:
        return False


def typed(tuned: Hyperparameters) -> dict[str, Any]:
    """Return hyperparameters as a user would enter them."""
    return {name: _typed(value) for name, value in tuned.model_dump().items()}


def _typed(value: Any) -> str | list[str]:
    match value:
        case None | False:
            return ""
        case True:
            return "true"
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
    """The job request that results from the entries, and the validation errors."""

    request: JobRequest | None
    """None if an entry is missing, or if a field that affects memory or price is invalid.

    Invalid fields that do not affect them have their defaults.
    """
    missing: tuple[str, ...]
    problems: Mapping[str, str]
    """Error message of each invalid field."""


def read(entries: Entries) -> Reading:
    """Parse and validate the entries. The named objects may not exist."""
    given = entries.model_dump()
    missing = tuple(REQUIRED[name] for name in REQUIRED if not given[name])
    body = {n: given[n] for n in JobRequest.model_fields if given.get(n) or n == "gpu_count"}
    tuned = {n: given[n] for n in hyperparameters.FIELDS if given[n] or not _may_be_empty(n)}
    body["integrations"], untracked = _integrations(entries)
    request, problems = _parsed(body, tuned)
    if problems and not missing and problems.keys() <= WEIGHTLESS:
        request, _ = _parsed(_without(body, problems), _without(tuned, problems))
    return Reading(request, missing, problems | untracked)


def _integrations(entries: Entries) -> tuple[list[Integration], dict[str, str]]:
    copied = {name_of(each): each for each in _copied(entries)}
    found, problems = list[Integration](), dict[str, str]()
    for tracker, name in entries.tracked.items():
        named = f"{tracker}:{name}"
        try:
            found.append(copied.get(named) or integration_of(named))
        except Invalid:
            problems[tracker] = TRACKED[tracker]
    found += (each for each in copied.values() if each.type not in REMOTE)
    return found, problems


def _copied(entries: Entries) -> list[Integration]:
    if not has_receiver():
        return []
    try:
        return COPIED.validate_json(entries.copied_integrations or "[]")
    except ValidationError:  # a changed hidden field
        return []


def _document(integrations: list[Integration]) -> str:
    """Return the integrations as JSON, or an empty text if the form's inputs show all of them."""
    if all(each == integration_of(name_of(each)) for each in integrations if each.type in REMOTE):
        integrations = [each for each in integrations if each.type not in REMOTE]
    return COPIED.dump_json(integrations, exclude_defaults=True).decode() if integrations else ""


def _may_be_empty(name: str) -> bool:
    return name in ONLY_IN_API or hyperparameters.FIELDS[name].default in (None, False)


def _without(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _parsed(
    body: Mapping[str, Any], tuned: Mapping[str, Any]
) -> tuple[JobRequest | None, dict[str, str]]:
    form = {**body, "hyperparameters": tuned}
    try:
        request = JobRequest.model_validate(form, strict=False)
    except ValidationError as refused:
        wrong = (each["loc"] for each in refused.errors() if each["type"] != "missing")
        names = (str(loc[1] if loc[0] == "hyperparameters" else loc[0]) for loc in wrong)
        given = {**body, **tuned}
        return None, {name: refusal(name, given.get(name)) for name in names}
    return (request if REQUIRED.keys() <= body.keys() else None), {}


_SCHEMAS: Mapping[str, Any] = {
    **JobRequest.model_json_schema()["properties"],
    **Hyperparameters.model_json_schema()["properties"],
}


def refusal(name: str, given: object) -> str:
    """Return what is wrong with the value of a field, and its valid values."""
    title = FIELDS[name].title
    if name.endswith("dataset"):
        return GONE_DATASET
    return f"{title} {f'{given!r} is invalid' if given else 'is empty'}. {remedy(name)}"


def remedy(name: str) -> str:
    """Return a request for a valid value, such as "Enter a whole number from 1 to 100."."""
    schema: dict[str, Any] = _SCHEMAS[name].get("anyOf", [_SCHEMAS[name]])[0]
    if name in MESSAGES:
        return MESSAGES[name]
    if "enum" in schema:
        *first, last = schema["enum"]
        return f"Choose {', '.join(first)} or {last}."
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    match schema:
        case {"minimum": low, "maximum": high}:
            bounds = f"from {low:,} to {high:,}"
        case {"minimum": low, "exclusiveMaximum": high}:
            bounds = f"of at least {low:,} and below {high:,}"
        case {"exclusiveMinimum": low, "maximum": high}:
            bounds = f"above {low:,} and at most {high:,}"
        case _:
            return "Correct it."
    return f"Enter {kind} {bounds}."


def gpu_count_of(text: str) -> int | None:
    """Return the entered number of GPUs, or None if no job can have it."""
    try:
        return TypeAdapter(GpuCount).validate_python(text, strict=False)
    except ValidationError:
        return None
