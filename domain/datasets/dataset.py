"""An uploaded file of examples, from its upload to its deletion."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from hashlib import sha256
from typing import Any, ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.core.aggregate import Aggregate, Created, Event
from domain.core.errors import WrongState
from domain.core.value import Value
from domain.datasets.filters import Filters
from domain.training.token_lengths import TokenLengths

LEAST_EXAMPLES = 2
"""Minimum number of examples: one to train on and one held out for the evaluation."""


class DatasetStatus(StrEnum):
    """States of a dataset."""

    VALIDATING = "validating"
    READY_FOR_TRAINING = "ready_for_training"
    REJECTED = "rejected"
    DELETED = "deleted"


class DatasetKind(StrEnum):
    """Kinds of datasets. All examples of a dataset are of the same kind."""

    CHATS = "chats"
    PREFERENCES = "preferences"  # pairs of a preferred and a rejected answer to the same prompt

    @property
    def sequences(self) -> int:
        """Number of token sequences of an example: one for each answer to train on."""
        return 2 if self is DatasetKind.PREFERENCES else 1


class HubSource(Value):
    """The origin of an upload in a dataset repository on a hub.

    Users write the names of repositories, so these are in an artifact, of which this has the hash.
    """

    commit: str
    document_sha256: str

    @classmethod
    def of(cls, commit: str, document: Mapping[str, Any]) -> HubSource:
        """Return the source with a document that names the repository and its files."""
        return cls(commit=commit, document_sha256=sha256(source_document(document)).hexdigest())


def source_document(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a document of a source, always the same ones."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False).encode()


def source_ref(account_id: UUID, dataset_id: UUID, document_sha256: str) -> str:
    """Return the artifact of the document of a dataset's source."""
    return f"uploads/{account_id}/{dataset_id}.{document_sha256}.source.json"


@dataclass(frozen=True)
class UploadOptions:
    """Options of an upload.

    By default, EcoLink removes duplicate lines, keeps the tool definitions of the examples, and
    guesses the columns. `columns_sha256` is the hash of the columns that the owner chose instead.
    Their names are in an artifact, because users wrote them. `parent` is the dataset of which this
    one is a new version: it reads its upload with other columns, or its examples with `filters`, or
    has a file of its own. `synthesis_id` is the synthesis that generated the examples. `source` is
    the origin of a file from a hub.
    """

    keep_duplicates: bool = False
    ignore_tools: bool = False
    columns_sha256: str | None = None
    parent: UUID | None = None
    filters: Filters | None = None
    synthesis_id: UUID | None = None
    source: HubSource | None = None

    @property
    def is_filtered(self) -> bool:
        """True if the dataset has no file of its own, but filters the examples of its parent."""
        return self.filters is not None


class MadeDataset(Event):
    """An event of an extension that created a dataset."""

    dataset_id: UUID
    sha256: str  # hash of its upload


@dataclass(frozen=True)
class Quality:
    """The result of an analysis: a reference to the report, and the number of examples by finding.

    `analyzed` is less than the number of examples if the analysis stopped at a limit.
    """

    report_ref: str
    report_sha256: str
    analyzed: int
    findings: Mapping[str, int]


@dataclass(frozen=True)
class Contents:
    """The examples that a validation found, and the duplicates that it removed.

    `tool_lines` is the number of lines whose tool definitions training ignores.
    """

    examples: int
    duplicates: int = 0
    tool_lines: int = 0
    kind: DatasetKind = DatasetKind.CHATS


@dataclass(frozen=True)
class Trainability:
    """The facts that decide whether jobs may train on a valid dataset.

    `tool_lines` is the number of lines without the tool definitions that the upload had. Version
    0.1 removed them from all files, and its users confirmed this before they trained.
    """

    examples: int
    duplicates: int
    tool_lines: int
    tools_ignored: bool

    @property
    def lost_tools(self) -> str | None:
        """The obstacle of removed tool definitions; None without any, or if a user confirmed it."""
        if not self.tool_lines or self.tools_ignored:
            return None
        lines = "1 line" if self.tool_lines == 1 else f"{self.tool_lines:,} lines"
        return (
            f"EcoLink 0.1 removed the tool definitions of {lines}, so the model would not learn to "
            "call the tools. Upload the file again to keep them, or confirm that training ignores "
            "them."
        )

    def obstacle(self, *, has_validation: bool = False) -> str | None:
        """Return why no job can train on the dataset; None if jobs can.

        If `has_validation` is true, the job has a validation dataset and needs no held-out
        examples.
        """
        if self.lost_tools is not None:
            return self.lost_tools
        if self.examples + has_validation < LEAST_EXAMPLES:
            count = "1 example" if self.examples == 1 else f"{self.examples} examples"
            lines = "line" if self.duplicates == 1 else "lines"
            removed = (
                f" after the removal of {self.duplicates:,} duplicate {lines}"
                if self.duplicates
                else ""
            )
            return (
                f"The dataset has {count}{removed}. Add examples until at least 2 remain: one "
                "to train on and one to evaluate. You can also choose a validation dataset."
            )
        return None


class Uncountable(StrEnum):
    """Reasons why EcoLink cannot count tokens: a rejected example, or an exceeded limit."""

    REFUSED = "refused"
    TIME = "time"
    MEMORY = "memory"


@dataclass(frozen=True)
class Counted:
    """Token lengths under one revision of a base model. A preference pair has two sequences."""

    base_manifest_sha256: str
    lengths: TokenLengths


@dataclass(frozen=True)
class TokensRefused:
    """The reason why EcoLink cannot count the tokens of a dataset for a base model revision."""

    base_manifest_sha256: str
    example: int | None
    reason: Uncountable

    def __str__(self) -> str:
        match self.reason, self.example:
            case Uncountable.REFUSED, None:
                return "The base model's chat template is invalid."
            case Uncountable.REFUSED, example:
                return f"The base model's chat template rejects example {example:,}."
            case Uncountable.TIME, None:
                return "Counting the tokens takes too long."
            case Uncountable.TIME, example:
                return f"The base model's chat template takes too long for example {example:,}."
            case _, None:
                return "Counting the tokens needs too much memory."
            case _, example:
                return f"Example {example:,} needs too much memory."


def columns_ref(account_id: UUID, dataset_id: UUID, sha256: str) -> str:
    """Return the artifact of the chosen columns of a dataset. The gateway writes only uploads."""
    return f"uploads/{account_id}/{dataset_id}.{sha256}.json"


class Dataset(Aggregate):
    """A file of chats or preference pairs. Events contain only its reference and its hash."""

    TOPIC: ClassVar[str] = "Dataset"

    class Event(Aggregate.Event):
        """Base class of the events of a dataset."""

    class DatasetUploaded(Event, Created):
        """A file was uploaded, or copied from another dataset. It is queued for validation."""

        ref: str
        sha256: str
        total_bytes: int
        keep_duplicates: bool
        ignore_tools: bool
        columns_sha256: str | None  # hash of the columns that the owner chose, if any
        parent: UUID | None  # dataset of which this one is a new version, if any
        filters: Filters | None  # filters of the parent's examples, which `ref` then names
        synthesis_id: UUID | None  # synthesis that generated the examples, if any
        source: HubSource | None  # origin in a repository on a hub, if any

    class DatasetValidated(Event):
        """The file is valid. Jobs train on its normalized form."""

        ref: str
        sha256: str
        examples: int
        duplicates: int
        tool_lines: int  # number of lines whose tool definitions training ignores
        report_ref: str
        kind: DatasetKind

    class ToolDefinitionsIgnored(Event):
        """The owner confirmed that jobs may ignore the tool definitions in the file."""

    class DatasetRejected(Event):
        """The file is invalid. The validation report lists the errors."""

        errors: int
        report_ref: str

    class DatasetAnalyzed(Event):
        """The quality of the examples was analyzed. `findings` has the number of examples by kind.

        `analyzed` is less than the number of examples if the analysis stopped at a limit.
        """

        report_ref: str
        report_sha256: str
        analyzed: int
        findings: dict[str, int]

    class TokensCounted(Event):
        """The token lengths of the examples were computed for one base model revision."""

        base_model: str
        base_manifest_sha256: str
        tokens: int
        longest_example: int
        lengths: TokenLengths

    class TokensUncountable(Event):
        """The tokens cannot be counted for a base model. No job can fine-tune it on the dataset."""

        base_model: str
        base_manifest_sha256: str
        example: int | None  # counted from 1; None: no single example is the reason
        reason: Uncountable

    class DatasetDeleted(Event):
        """The owner deleted the file. EcoLink keeps the models that were trained on it."""

    @classmethod
    def uploaded(
        cls,
        dataset_id: UUID,
        account_id: UUID,
        ref: str,
        sha256: str,
        total_bytes: int,
        options: UploadOptions = UploadOptions(),
    ) -> Dataset:
        """Return a new dataset. Its file must be completely stored."""
        return cls._create(
            cls.DatasetUploaded,
            id=dataset_id,
            account_id=account_id,
            ref=ref,
            sha256=sha256,
            total_bytes=total_bytes,
            **{each.name: getattr(options, each.name) for each in fields(options)},
        )

    @event(DatasetUploaded)
    def __init__(self, event: Dataset.DatasetUploaded) -> None:
        self.account_id = event.account_id
        self.ref = self.upload_ref = event.ref
        self.sha256 = self.upload_sha256 = event.sha256
        self.total_bytes = event.total_bytes
        self.status = DatasetStatus.VALIDATING
        self.options = UploadOptions(
            event.keep_duplicates,
            event.ignore_tools,
            event.columns_sha256,
            event.parent,
            event.filters,
            event.synthesis_id,
            event.source,
        )
        self.trainability = Trainability(0, 0, 0, event.ignore_tools)
        self.kind = DatasetKind.CHATS
        self.quality: Quality | None = None
        self.counted: dict[str, Counted] = {}
        # By base model and manifest. Unfinished jobs keep an earlier revision of a base model.
        self.lengths: dict[tuple[str, str], TokenLengths] = {}
        self.uncountable: dict[str, TokensRefused] = {}

    @property
    def home(self) -> str:
        """Artifact prefix of all files that the validation stores."""
        return f"datasets/{self.account_id}/{self.id}"

    @property
    def columns_ref(self) -> str | None:
        """Reference of the columns that the owner chose; None if EcoLink guesses them."""
        sha256 = self.options.columns_sha256
        return None if sha256 is None else columns_ref(self.account_id, self.id, sha256)

    @property
    def source_ref(self) -> str | None:
        """Reference of the document of the source; None for a file that a user uploaded."""
        source = self.options.source
        return source and source_ref(self.account_id, self.id, source.document_sha256)

    @property
    def examples(self) -> int:
        """Number of examples; 0 before validation."""
        return self.trainability.examples

    def validate(self, ref: str, sha256: str, contents: Contents, report_ref: str) -> None:
        """Record that the file is valid, and its normalized form."""
        self._require(DatasetStatus.VALIDATING)
        assert contents.examples > 0
        self.trigger_event(
            self.DatasetValidated, ref=ref, sha256=sha256, report_ref=report_ref, **asdict(contents)
        )

    @event(DatasetValidated)
    def _dataset_validated(
        self,
        ref: str,
        sha256: str,
        examples: int,
        duplicates: int,
        tool_lines: int,
        kind: DatasetKind,
    ) -> None:
        self.status = DatasetStatus.READY_FOR_TRAINING
        self.kind = kind
        self.ref = ref
        self.sha256 = sha256
        ignored = self.options.ignore_tools
        self.trainability = Trainability(examples, duplicates, tool_lines, ignored)

    def ignore_tools(self) -> None:
        """Let jobs ignore the tool definitions. Raise WrongState unless the file is valid."""
        self._require(DatasetStatus.READY_FOR_TRAINING)
        if self.trainability.lost_tools is not None:
            self.trigger_event(self.ToolDefinitionsIgnored)

    @event(ToolDefinitionsIgnored)
    def _tool_definitions_ignored(self) -> None:
        self.trainability = replace(self.trainability, tools_ignored=True)

    def reject(self, errors: int, report_ref: str) -> None:
        """Record that the file is invalid. Raise WrongState unless it is being validated."""
        self._require(DatasetStatus.VALIDATING)
        assert errors > 0
        self.trigger_event(self.DatasetRejected, errors=errors, report_ref=report_ref)

    @event(DatasetRejected)
    def _dataset_rejected(self) -> None:
        self.status = DatasetStatus.REJECTED

    def record_quality(self, quality: Quality) -> None:
        """Record the result of the analysis once. Raise WrongState unless the file is valid."""
        self._require(DatasetStatus.READY_FOR_TRAINING)
        if self.quality is None:
            self.trigger_event(
                self.DatasetAnalyzed,
                report_ref=quality.report_ref,
                report_sha256=quality.report_sha256,
                analyzed=quality.analyzed,
                findings=dict(quality.findings),
            )

    @event(DatasetAnalyzed)
    def _dataset_analyzed(
        self, report_ref: str, report_sha256: str, analyzed: int, findings: dict[str, int]
    ) -> None:
        self.quality = Quality(report_ref, report_sha256, analyzed, findings)

    def delete(self, used_by: Collection[UUID]) -> None:
        """Delete the file. Raise WrongState if `used_by` has the IDs of unfinished jobs."""
        if used_by:
            one = len(used_by) == 1
            raise WrongState(
                f"{len(used_by):,} unfinished {'job uses' if one else 'jobs use'} this dataset. "
                f"Wait for {'it' if one else 'them'} to finish, or cancel "
                f"{'it' if one else 'them'}.",
                figures={"jobs": [str(job_id) for job_id in used_by]},
            )
        if self.status is not DatasetStatus.DELETED:
            self.trigger_event(self.DatasetDeleted)

    @event(DatasetDeleted)
    def _dataset_deleted(self) -> None:
        self.status = DatasetStatus.DELETED

    def record_tokens(
        self, base_model: str, base_manifest_sha256: str, lengths: TokenLengths
    ) -> None:
        """Record the token lengths under one base model revision, unless they are already known."""
        self._require(DatasetStatus.READY_FOR_TRAINING)
        if not self.is_counted(base_model, base_manifest_sha256):
            self.trigger_event(
                self.TokensCounted,
                base_model=base_model,
                base_manifest_sha256=base_manifest_sha256,
                tokens=lengths.tokens,
                longest_example=lengths.longest,
                lengths=lengths,
            )

    @event(TokensCounted)
    def _tokens_counted(
        self, base_model: str, base_manifest_sha256: str, lengths: TokenLengths
    ) -> None:
        self.lengths[base_model, base_manifest_sha256] = lengths
        self.counted[base_model] = Counted(base_manifest_sha256, lengths)

    def refuse_tokens(
        self,
        base_model: str,
        base_manifest_sha256: str,
        example: int | None,
        reason: Uncountable = Uncountable.REFUSED,
    ) -> None:
        """Record once that a base model cannot count the tokens, due to `example` (from 1)."""
        known = (self.is_refused, self.is_counted)
        if not any(each(base_model, base_manifest_sha256) for each in known):
            self.trigger_event(
                self.TokensUncountable,
                base_model=base_model,
                base_manifest_sha256=base_manifest_sha256,
                example=example,
                reason=reason,
            )

    @event(TokensUncountable)
    def _tokens_uncountable(
        self, base_model: str, base_manifest_sha256: str, example: int | None, reason: Uncountable
    ) -> None:
        self.uncountable[base_model] = TokensRefused(base_manifest_sha256, example, reason)

    def why_uncountable(self, base_model: str, base_manifest_sha256: str) -> str | None:
        """Return why a base model revision has no token count, or None if no reason is known."""
        refused = self.is_refused(base_model, base_manifest_sha256)
        return str(self.uncountable[base_model]) if refused else None

    def is_refused(self, base_model: str, base_manifest_sha256: str) -> bool:
        """Return True if the tokens cannot be counted under this base model revision."""
        refused = self.uncountable.get(base_model)
        return refused is not None and refused.base_manifest_sha256 == base_manifest_sha256

    def is_counted(self, base_model: str, base_manifest_sha256: str) -> bool:
        """Return True if the lengths for this base model revision are known."""
        known = self.counted.get(base_model)
        return known is not None and known.base_manifest_sha256 == base_manifest_sha256

    def _require(self, status: DatasetStatus) -> None:
        if self.status is not status:
            raise WrongState(
                f"The dataset is {self.status}. This command needs a dataset in the state {status}."
            )
