"""Why a chat is not answered: each with an HTTP status, a stable code, and a sentence."""

from __future__ import annotations

from http import HTTPStatus


class Refused(Exception):
    """A chat that is not answered."""

    status: HTTPStatus
    code: str

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message, self.field = message, field


class NotLoaded(Refused):
    """The model is not in memory, or not yet."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "model_loading"

    def __init__(self) -> None:
        super().__init__("the model is being loaded; try again in a few seconds")


class QueueFull(Refused):
    """More chats wait than may wait."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate_limit_exceeded"

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} answers are waiting to be begun; try again soon")


class AccountQueueFull(QueueFull):
    """One account has more chats waiting than it may, so that others find room."""

    def __init__(self, limit: int) -> None:
        Refused.__init__(self, f"{limit} of your answers are waiting to be begun; try again soon")


class ContextExceeded(Refused):
    """The prompt leaves no room for an answer."""

    status = HTTPStatus.BAD_REQUEST
    code = "context_length_exceeded"

    def __init__(self, tokens: int, context: int) -> None:
        super().__init__(
            f"the messages are {tokens} tokens long; the model reads at most {context}, with the "
            "answer among them: shorten the messages",
            "messages",
        )


class TemplateRefused(Refused):
    """The model's chat template has no way to write these messages."""

    status = HTTPStatus.BAD_REQUEST
    code = "invalid_messages"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the model's chat template refuses the messages: {reason}", "messages")
