"""A base model in the model store, which jobs can fine-tune."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.catalog.model_shape import ModelShape
from domain.core.aggregate import Aggregate, Created, Event
from domain.core.identity import PLATFORM_ACCOUNT_ID, base_model_id


class BaseModel(Aggregate):
    """A base model in the model store. Importing different content creates a new revision."""

    TOPIC: ClassVar[str] = "BaseModel"

    class BaseModelImported(Created):
        """All files of a base model were imported."""

        name: str
        ref: str
        manifest_sha256: str
        architecture: str
        parameters: int
        context_length: int
        shape: ModelShape

    class BaseModelRevised(Event):
        """The base model has new content. Models trained on the earlier content keep it."""

        ref: str
        manifest_sha256: str
        architecture: str
        parameters: int
        context_length: int
        shape: ModelShape

    class BaseModelDeleted(Event):
        """An operator deleted the base model and its files."""

    @classmethod
    def imported(
        cls,
        name: str,
        ref: str,
        manifest_sha256: str,
        architecture: str,
        parameters: int,
        context_length: int,
        shape: ModelShape,
    ) -> BaseModel:
        """Return a newly imported base model."""
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
            shape=shape,
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
        shape: ModelShape,
    ) -> None:
        self.account_id = account_id
        self.name = name
        self.deleted = False
        self.refs: tuple[str, ...] = ()  # of all its content, current and earlier
        self._base_model_is(ref, manifest_sha256, architecture, parameters, context_length, shape)

    def revise(
        self,
        ref: str,
        manifest_sha256: str,
        architecture: str,
        parameters: int,
        context_length: int,
        shape: ModelShape,
    ) -> None:
        """Replace the content. Importing identical content only restores a deleted base model."""
        if self.deleted or manifest_sha256 != self.manifest_sha256:
            self.trigger_event(
                self.BaseModelRevised,
                ref=ref,
                manifest_sha256=manifest_sha256,
                architecture=architecture,
                parameters=parameters,
                context_length=context_length,
                shape=shape,
            )

    @event(BaseModelRevised)
    def _base_model_revised(
        self,
        ref: str,
        manifest_sha256: str,
        architecture: str,
        parameters: int,
        context_length: int,
        shape: ModelShape,
    ) -> None:
        self.deleted = False
        self._base_model_is(ref, manifest_sha256, architecture, parameters, context_length, shape)

    def delete(self) -> None:
        """Delete the base model. Importing it under the same name restores it."""
        if not self.deleted:
            self.trigger_event(self.BaseModelDeleted)

    @event(BaseModelDeleted)
    def _base_model_deleted(self) -> None:
        self.deleted = True

    def _base_model_is(
        self,
        ref: str,
        manifest_sha256: str,
        architecture: str,
        parameters: int,
        context_length: int,
        shape: ModelShape,
    ) -> None:
        self.ref = ref
        self.refs = tuple(dict.fromkeys((*self.refs, ref)))
        self.manifest_sha256 = manifest_sha256
        self.architecture = architecture
        self.parameters = parameters
        self.context_length = context_length
        self.shape = shape
