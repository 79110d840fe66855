"""The stored request of a synthesis: the texts that its owner wrote or uploaded."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import Field, StringConstraints

from domain.core.errors import Invalid
from domain.core.value import Value
from extensions.synthesis.domain.plan import SourceKind

MOST_INSTRUCTIONS = 4_000
MOST_TOPICS, MOST_TOPIC = 1_000, 200
MOST_DOCUMENTS, MOST_DOCUMENT_CHARACTERS = 100, 600_000

Text = Annotated[str, StringConstraints(strip_whitespace=True)]
Topic = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MOST_TOPIC)
]


class Document(Value):
    """A document that the examples are about."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    text: Annotated[str, StringConstraints(min_length=1, max_length=MOST_DOCUMENT_CHARACTERS)]


class SynthesisRequest(Value):
    """Texts that determine the examples, such as their `system` message, if any."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    instructions: Annotated[Text, Field(max_length=MOST_INSTRUCTIONS)] = ""
    topics: tuple[Topic, ...] = Field(default=(), max_length=MOST_TOPICS)
    documents: tuple[Document, ...] = Field(default=(), max_length=MOST_DOCUMENTS)
    system: Annotated[Text, Field(max_length=MOST_INSTRUCTIONS)] = ""
    external_model: str | None = None

    @property
    def content(self) -> bytes:
        """The bytes of the stored file."""
        return self.model_dump_json().encode()

    @property
    def sha256(self) -> str:
        """Hash of the stored file."""
        return hashlib.sha256(self.content).hexdigest()

    def sources(self, *, seeded: bool) -> tuple[SourceKind, ...]:
        """Return the kinds of material. Raise Invalid without any, or for too long documents."""
        given = {
            SourceKind.INSTRUCTIONS: bool(self.instructions),
            SourceKind.TOPICS: bool(self.topics),
            SourceKind.DOCUMENTS: bool(self.documents),
            SourceKind.SEED_DATASET: seeded,
        }
        if not any(given.values()):
            raise Invalid(
                "Nothing says what the examples are about. Enter instructions or topics, upload "
                "documents, or choose a seed dataset.",
                field="instructions",
            )
        total = sum(len(each.text) for each in self.documents)
        if total > MOST_DOCUMENT_CHARACTERS:
            raise Invalid(
                f"The documents have {total:,} characters. Use at most "
                f"{MOST_DOCUMENT_CHARACTERS:,} in total.",
                field="documents",
            )
        return tuple(kind for kind, is_given in given.items() if is_given)


def request_ref(account_id: object, synthesis_id: object, sha256: str) -> str:
    """Return the artifact of a request. The gateway writes only uploads."""
    return f"uploads/{account_id}/{synthesis_id}.{sha256}.request.json"
