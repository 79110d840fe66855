"""Reasons to refuse a chat. Each has an HTTP status, a stable code and a message."""

from __future__ import annotations

from http import HTTPStatus


class Refused(Exception):
    """The engine refuses to answer a chat."""

    status: HTTPStatus
    code: str

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message, self.field = message, field


class NotLoaded(Refused):
    """The model is not in memory, or is still loading."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "model_loading"

    def __init__(self) -> None:
        super().__init__("The model is loading. Try again in a few seconds.")


class QueueFull(Refused):
    """The queue is full."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate_limit_exceeded"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The queue is full ({limit:,} responses). Try again soon.")


class AccountQueueFull(QueueFull):
    """The account has used its share of the queue."""

    def __init__(self, limit: int) -> None:
        Refused.__init__(
            self, f"You already have {limit:,} responses in the queue. Try again soon."
        )


class ContextExceeded(Refused):
    """The prompt leaves no tokens for an answer."""

    status = HTTPStatus.BAD_REQUEST
    code = "context_length_exceeded"

    def __init__(self, tokens: int, context: int) -> None:
        super().__init__(
            f"The messages have {tokens:,} tokens. Messages and response together can have at "
            f"most {context:,} tokens. Shorten the messages.",
            "messages",
        )


class TemplateRefused(Refused):
    """The chat template of the model cannot render these messages."""

    status = HTTPStatus.BAD_REQUEST
    code = "invalid_messages"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason[:1].upper()}{reason[1:]}. Change the messages, or use another model.",
            "messages",
        )
