"""A base model in the model store, which jobs can fine-tune."""

from __future__ import annotations

from typing import ClassVar

from eventsourcing.domain import event

from domain.catalog.model_shape import ModelShape
from domain.core.aggregate import Aggregate, Created
from domain.core.identity import PLATFORM_ACCOUNT_ID, base_model_id
from domain.core.value import Value


class Revision(Value):
    """One import of a base model: the model's files and shape."""

    ref: str  # artifact prefix of the files
    manifest_sha256: str
    architecture: str  # class name, such as LlamaForCausalLM
    shape: ModelShape


class BaseModel(Aggregate):
    """A base model in the model store. Importing changed files creates a new revision."""

    TOPIC: ClassVar[str] = "BaseModel"

    class Event(Aggregate.Event):
        """Base class of the events of a base model."""

    class BaseModelImported(Revision, Event, Created):
        """All files of a base model were imported."""

        name: str

    class BaseModelRevised(Revision, Event):
        """Changed files of the base model were imported. Earlier jobs keep the earlier revision."""

    class BaseModelDeleted(Event):
        """An operator deleted the base model and its files."""

    @classmethod
    def imported(cls, name: str, revision: Revision) -> BaseModel:
        """Return a newly imported base model."""
        return cls._create(
            cls.BaseModelImported,
            id=base_model_id(name),
            account_id=PLATFORM_ACCOUNT_ID,
            name=name,
            **dict(revision),
        )

    @event(BaseModelImported)
    def __init__(self, event: BaseModel.BaseModelImported) -> None:
        self.account_id = event.account_id
        self.name = event.name
        self.revision = event.part(Revision)
        self.refs = (event.ref,)  # artifact prefixes of all revisions
        # Hash of each manifest since the last deletion, by artifact prefix.
        self.manifests = {event.ref: event.manifest_sha256}
        self.deleted = False

    @property
    def manifest_sha256(self) -> str:
        """Hash of the current revision's manifest."""
        return self.revision.manifest_sha256

    def revise(self, revision: Revision) -> None:
        """Record a new revision. If the files are unchanged, only restore a deleted base model."""
        if self.deleted or revision.manifest_sha256 != self.manifest_sha256:
            self.trigger_event(self.BaseModelRevised, **dict(revision))

    @event(BaseModelRevised)
    def _base_model_revised(self, event: BaseModel.BaseModelRevised) -> None:
        self.deleted = False
        self.revision = event.part(Revision)
        self.refs = tuple(dict.fromkeys((*self.refs, event.ref)))
        self.manifests[event.ref] = event.manifest_sha256

    def delete(self) -> None:
        """Delete the base model. Importing it under the same name restores it."""
        if not self.deleted:
            self.trigger_event(self.BaseModelDeleted)

    @event(BaseModelDeleted)
    def _base_model_deleted(self) -> None:
        self.deleted = True
        self.manifests.clear()
