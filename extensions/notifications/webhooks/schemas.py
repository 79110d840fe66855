"""Schemas of webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
)

from domain.core.target import MAX_URL
from extensions.notifications.domain.message import SUBSCRIBED, WebhookType
from extensions.notifications.webhooks.deliveries import DeliveryStatus
from extensions.notifications.webhooks.endpoints import DisabledReason
from gateway.schemas import ResponseModel

EXAMPLE_URL = "https://example.com/hooks/ecolink"


def _subscribed(type: WebhookType) -> WebhookType:
    if type not in SUBSCRIBED:
        raise ValueError(f"{type} cannot be chosen. Every endpoint receives tests.")
    return type


SubscribedType = Annotated[
    WebhookType,
    AfterValidator(_subscribed),
    WithJsonSchema({"type": "string", "enum": [each.value for each in SUBSCRIBED]}),
]

Url = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_URL)]
Description = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]


class WebhookForm(BaseModel):
    """A new endpoint."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"url": EXAMPLE_URL, "event_types": ["fine_tuning.job.succeeded"]}]
        },
    )

    url: Url = Field(description="URL that receives the events. It begins with `https://`.")
    description: Description = ""
    event_types: list[SubscribedType] = Field(
        default=[], max_length=50, description="Types of events. Without any, all types."
    )


class WebhookChanges(BaseModel):
    """Changes of an endpoint. Omitted fields stay as they are."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"enabled": True}]})

    url: Url | None = None
    description: Description | None = None
    event_types: list[SubscribedType] | None = Field(
        default=None, max_length=50, description="An empty list chooses all types."
    )
    enabled: bool | None = Field(
        default=None, description="The events of a disabled endpoint wait until it is enabled."
    )


class Rotation(BaseModel):
    """The end of the previous secret."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})

    overlap_hours: int = Field(
        default=24,
        ge=0,
        le=168,
        description="Hours in which both the new and the previous secret sign.",
    )


class FailedSince(BaseModel):
    """The failed deliveries to send again."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"since": "2026-11-24T12:00:00Z"}]}
    )

    since: AwareDatetime = Field(description="Time from which on failed deliveries are sent again.")


class Replayed(ResponseModel):
    """The number of deliveries that EcoLink sends again."""

    replayed: int


class WebhookResponse(ResponseModel):
    """An endpoint without its secret."""

    id: UUID
    url: str = Field(
        description="Without the scope `keys`, only the origin, because a URL may contain a "
        "secret.",
        examples=[EXAMPLE_URL],
    )
    description: str
    event_types: list[WebhookType] = Field(description="Empty: all types.")
    enabled: bool
    disabled_reason: DisabledReason | None = Field(
        description="`owner`, `failing` (it accepted nothing for a day) or `gone` (status 410)."
    )
    disabled_at: datetime | None
    previous_secret_until: datetime | None = Field(
        description="Time until which the previous secret also signs, after a rotation."
    )
    created_at: datetime
    pending: int = Field(description="Deliveries that wait for their next attempt.")
    failed: int = Field(description="Deliveries whose attempts all failed.")


class NewWebhook(WebhookResponse):
    """An endpoint with its new secret, which no later response contains."""

    secret: str = Field(description="Secret that verifies the signatures.", examples=["whsec_..."])


class DeliveryAttemptResponse(ResponseModel):
    """One request to an endpoint."""

    number: int
    started_at: datetime
    duration_ms: int
    status_code: int | None = Field(description="Null if there was no response.")
    error: str | None = Field(description="Null if the endpoint accepted the message.")
    response: str | None = Field(description="Start of the response's body.")


class DeliveryResponse(ResponseModel):
    """The delivery of one message to one endpoint."""

    id: int
    message_id: str = Field(
        description="The header `webhook-id`, the same for all attempts and endpoints.",
        examples=["evt_0b0f8f5c3a4e5d0c9a4d0e6b1c2d3e4f_12"],
    )
    type: WebhookType
    status: DeliveryStatus
    created_at: datetime
    next_attempt_at: datetime | None = Field(description="Null if no attempt is due.")
    finished_at: datetime | None
    attempts: list[DeliveryAttemptResponse]
    payload: dict[str, JsonValue] = Field(description="Body of the requests.")
