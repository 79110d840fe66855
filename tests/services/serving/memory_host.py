"""A host without models, for tests of what is attached and when."""

from __future__ import annotations

from uuid import UUID

from services.serving.deployed import CannotServe, Served


class MemoryHost:
    """Records attached deployments. It can be set to refuse or fail."""

    def __init__(self) -> None:
        self.attached: dict[UUID, Served] = {}
        self.calls: list[str] = []
        self.refusal: Exception | None = None
        self.refused: str | None = None  # the model to refuse or fail; None: all

    @property
    def models(self) -> set[str]:
        return {each.model for each in self.attached.values()}

    def attach(self, served: Served) -> None:
        self.calls.append(served.model)
        if self.refusal is not None and self.refused in (None, served.model):
            raise self.refusal
        self.attached[served.deployment_id] = served

    def detach(self, deployment_id: UUID) -> None:
        self.attached.pop(deployment_id, None)


UNREADABLE = CannotServe("base_unreadable", "/srv/models/tiny: bad magic number")
