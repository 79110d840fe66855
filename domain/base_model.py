"""BaseModel: a base that jobs can fine-tune, as the model store holds it."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, Created, Event
from domain.identity import PLATFORM_ACCOUNT_ID, base_model_id


class BaseModel(Aggregate):
    """One name in the model store; an import of other content under it is a new revision."""

    TOPIC: ClassVar[str] = "BaseModel"

    class BaseModelImported(Created):
        """A base model is complete in the model store."""

        TOPIC: ClassVar[str] = "BaseModelImported"
        name: str
        ref: str
        manifest_sha256: str
        architecture: str
        parameters: int
        context_length: int

    class BaseModelRevised(Event):
        """The name stands for other content from now on; what was trained keeps its own."""

        TOPIC: ClassVar[str] = "BaseModelRevised"
        ref: str
        manifest_sha256: str
        architecture: str
        parameters: int
        context_length: int

    @classmethod
    def imported(
        cls,
        name: str,
        ref: str,
        manifest_sha256: str,
        architecture: str,
        parameters: int,
        context_length: int,
    ) -> BaseModel:
        """A name that was not there before."""
        return cls._create(
            cls.BaseModelImported,
            id=base_model_id(name),
            account_id=PLATFORM_ACCOUNT_ID,
            name=name,
            ref=ref,
            manifest_sha256=manifest_sha256,
            architecture=architecture,
            parameters=parameters,
            context_length=context_length,
        )

    @event(BaseModelImported)
    def __init__(
        self,
        account_id: UUID,
        name: str,
        ref: str,
        manifest_sha256: str,
        architecture: str,
        parameters: int,
        context_length: int,
    ) -> None:
        self.account_id = account_id
        self.name = name
        self._base_model_is(ref, manifest_sha256, architecture, parameters, context_length)

    def revise(
        self,
        ref: str,
        manifest_sha256: str,
        architecture: str,
        parameters: int,
        context_length: int,
    ) -> None:
        """Put other content under the name; the same content changes nothing."""
        if manifest_sha256 != self.manifest_sha256:
            self.trigger_event(
                self.BaseModelRevised,
                ref=ref,
                manifest_sha256=manifest_sha256,
                architecture=architecture,
                parameters=parameters,
                context_length=context_length,
            )

    @event(BaseModelRevised)
    def _base_model_revised(
        self,
        ref: str,
        manifest_sha256: str,
        architecture: str,
        parameters: int,
        context_length: int,
    ) -> None:
        self._base_model_is(ref, manifest_sha256, architecture, parameters, context_length)

    def _base_model_is(
        self,
        ref: str,
        manifest_sha256: str,
        architecture: str,
        parameters: int,
        context_length: int,
    ) -> None:
        self.ref = ref
        self.manifest_sha256 = manifest_sha256
        self.architecture = architecture
        self.parameters = parameters
        self.context_length = context_length
