"""The launch form: what a user chooses, and every problem of it in one answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from uuid import UUID

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.concurrency import run_in_threadpool

from domain.jobs.choices import Choices
from domain.training.hyperparameters import Hyperparameters
from domain.training.training_plan import Order
from gateway.backend import Backend

GpuCount = Annotated[int, Field(ge=1, le=64)]
ModelSuffix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class JobRequest(BaseModel):
    """What a user chooses in the wizard; hyperparameters left out have the wizard's defaults.

    A region or GPU type that is left out is the one where the job costs least, of those that are
    free, or with a queue if the balance does not pay for the free ones.
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
    base_model: str = Field(min_length=1, max_length=200, title="Base model")
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
        default=False, strict=True, description="Deploy the model as soon as it is registered."
    )
    wait: bool = Field(
        default=False,
        strict=True,
        description="Stand in the queue, free of charge, if no GPU is free.",
    )

    @property
    def leaves_gpus_open(self) -> bool:
        """Whether region and GPU type have yet to be chosen."""
        return self.region is None or self.gpu_type is None

    @property
    def choices(self) -> Choices:
        """The form as the use cases take it, with no name for GPUs that are left open."""
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
        """What the job is asked for beside what has a price.

        GPUs that are left open may be others when the request is repeated: its hash tells it then.
        """
        asked = self.model_dump_json(exclude={"wait"}).encode()
        request_sha256 = hashlib.sha256(asked).hexdigest() if self.leaves_gpus_open else None
        return Order(self.suffix, self.deploy, request_sha256)


class JobFormRoute(APIRoute):
    """Adds to the problems that a form has in itself what the log and the catalog know of the rest.

    Without it a user would mend a number only to hear next that the base model does not exist.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with the further problems in its RequestValidationError."""
        handle = super().get_route_handler()

        async def handle_whole(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as refused:
                further = await run_in_threadpool(_further_problems, request, refused)
                raise RequestValidationError(
                    [*refused.errors(), *further], body=refused.body
                ) from refused

        return handle_whole


def _further_problems(request: Request, refused: RequestValidationError) -> list[dict[str, Any]]:
    """Problems of the fields that could be read."""
    form = refused.body
    if not isinstance(form, dict):
        return []
    wrong = {str(problem["loc"][1]) for problem in refused.errors() if len(problem["loc"]) > 1}

    def readable(name: str) -> Any:
        field = JobRequest.model_fields[name]
        return None if name in wrong else form.get(name, field.get_default())

    def identified(name: str) -> UUID | None:
        return None if (given := readable(name)) is None else UUID(str(given))

    backend: Backend = request.app.state.backend
    problems = backend.quoting.problems(
        request.state.caller.account_id,
        identified("dataset"),
        identified("validation_dataset"),
        *(readable(name) for name in ("base_model", "region", "gpu_type", "gpu_count")),
    )
    return [
        {"loc": ("body", problem.field), "msg": problem.message, "type": problem.code}
        for problem in problems
    ]
