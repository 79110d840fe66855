"""Schemas of job templates."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from gateway.jobs.launch.job_form import JobRequest
from gateway.schemas import JobId, ResponseModel

MOST_CHARACTERS = 100

TemplateName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MOST_CHARACTERS)
]


class TemplateForm(BaseModel):
    """A template to save, from a job or from a request."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "Support bot, rank 32",
                    "job": "ftjob-9b2d1c9e6d1f4a539a3e2f1c5d7e8a90",
                }
            ]
        },
    )

    name: TemplateName = Field(description="Name of the template, which no other one has.")
    job: JobId | None = Field(default=None, description="Job whose choices the template gets.")
    request: JobRequest | None = Field(
        default=None, description="Choices of the template, instead of those of a job."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.job is None) == (self.request is None):
            raise PydanticCustomError("one_source", "Set either job or request")
        return self


class TemplateChange(BaseModel):
    """A new name of a template."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "Rank 64"}]})

    name: TemplateName


class JobTemplateResponse(ResponseModel):
    """A job template."""

    id: UUID
    name: str = Field(examples=["Support bot, rank 32"])
    job: JobId | None = Field(description="Job from which it was made, or null.")
    request: JobRequest | None = Field(
        description="Request that starts a job with these choices. Change it, and send it to "
        "`POST /api/jobs`. Null if this version of EcoLink cannot use the template."
    )
    problem: str | None = Field(
        default=None, description="Reason why the template cannot be used, or null."
    )
    created_at: datetime
