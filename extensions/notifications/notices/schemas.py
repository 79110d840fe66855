"""Schemas of notices."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from extensions.notifications.domain.email_address import MAX_LENGTH
from extensions.notifications.domain.kind import CHOSEN, NoticeKind
from extensions.notifications.notices.tables import NoticeStatus
from gateway.schemas import ResponseModel


def _chosen(kind: NoticeKind) -> NoticeKind:
    if kind not in CHOSEN:
        raise ValueError(f"{kind} cannot be chosen. EcoLink sends it only on request.")
    return kind


ChosenKind = Annotated[
    NoticeKind,
    AfterValidator(_chosen),
    WithJsonSchema({"type": "string", "enum": [each.value for each in CHOSEN]}),
]

Email = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_LENGTH)]


class NoticeChanges(BaseModel):
    """Changes of the settings. Omitted fields stay as they are."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"email": "ada@example.com", "kinds": ["fine_tuning.job.paused"]}]
        },
    )

    email: Email | None = Field(
        default=None, description="Address that receives the notices, after it is confirmed."
    )
    kinds: list[ChosenKind] | None = Field(
        default=None, max_length=50, description="Kinds of notices. An empty list turns them off."
    )


class NoticeSettings(ResponseModel):
    """The settings of an account."""

    available: bool = Field(description="False if the operator has not set up e-mail.")
    email: str | None = Field(
        description="The address, partly hidden from keys without the scope `keys`."
    )
    confirmed_at: datetime | None
    confirm_until: datetime | None = Field(
        description="Time until which the link in the newest mail confirms the address. Null if it "
        "is confirmed or refused."
    )
    refusal: str | None = Field(
        description="Reason why the mail server refused the address. EcoLink no longer uses it, "
        "until you confirm it with another link."
    )
    kinds: list[NoticeKind]


class NoticeResponse(ResponseModel):
    """A notice. `error` is the reason of its last failed attempt."""

    id: int
    kind: NoticeKind
    status: NoticeStatus
    created_at: datetime
    finished_at: datetime | None
    error: str | None
