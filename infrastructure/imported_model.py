"""The result of importing a base model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from domain.catalog.model_shape import ModelShape


class ImportedModel(BaseModel):
    """A base model in the artifact store, ready to be fine-tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    ref: str  # artifact prefix of the model's directory, which has a manifest
    manifest_sha256: str
    source: str  # as requested
    architecture: str  # class name, such as LlamaForCausalLM
    shape: ModelShape
    has_chat_template: bool
