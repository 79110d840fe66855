"""A route class that reports all errors of a launch form in one response."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool

from domain.use_cases.quoting import Draft
from gateway.backend import Backend
from gateway.http.operations import Operation
from gateway.jobs.launch.job_form import JobRequest


class JobFormRoute(Operation):
    """A route that adds errors found in the log and the catalog to the validation errors of a form.

    A user therefore sees an unknown base model and an invalid number in the same response.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler. It raises RequestValidationError with all problems."""
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
    draft = Draft(
        identified("dataset"),
        identified("validation_dataset"),
        *(readable(name) for name in ("base_model", "region", "gpu_type", "gpu_count")),
    )
    problems = backend.quoting.problems(request.state.caller.account_id, draft)
    return [
        {"loc": ("body", problem.field), "msg": problem.message, "type": problem.code}
        for problem in problems
    ]
