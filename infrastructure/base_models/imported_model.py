"""The result of the import of a base model."""

from __future__ import annotations

from domain.catalog.base_model import Revision


class ImportedModel(Revision):
    """A base model in the artifact store that is ready to be fine-tuned."""

    name: str
    source: str  # source as requested
    has_chat_template: bool
