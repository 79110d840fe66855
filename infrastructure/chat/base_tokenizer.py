"""The tokenizer and chat template of a base model, without the training library."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tokenizers import Tokenizer

from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts
from infrastructure.chat.chat_labels import ChatRenderer
from infrastructure.chat.template_rendering import TEMPLATE_FILES, ChatTemplate
from infrastructure.chat.text_encoder import TextEncoder

TOKENIZER_FILE = "tokenizer.json"
FILES = (TOKENIZER_FILE, *TEMPLATE_FILES)


class BaseTokenizer(ChatRenderer):
    """A converter of conversations into the texts and tokens that training uses."""

    def __init__(
        self, files: Mapping[str, bytes], template: type[ChatTemplate] = ChatTemplate
    ) -> None:
        """Create a tokenizer from the FILES of a saved model.

        `template` renders chats; pass LimitedTemplate in a process without resource limits. Raise
        FileNotFoundError if there is no tokenizer, and ChatRefused if the template is invalid.
        """
        if TOKENIZER_FILE not in files:
            raise FileNotFoundError(
                f"The base model has no {TOKENIZER_FILE}. Import the base model again."
            )
        encoder = TextEncoder(Tokenizer.from_buffer(files[TOKENIZER_FILE]))
        super().__init__(template.of(files), encoder)

    @classmethod
    def stored(
        cls, artifacts: Artifacts, ref: str, template: type[ChatTemplate] = ChatTemplate
    ) -> BaseTokenizer:
        """Return the tokenizer of a base model in the model store, without reading its weights.

        Raise FileNotFoundError if there is no tokenizer, ArtifactCorrupt if a file is damaged, and
        ChatRefused if the template is invalid.
        """
        return cls(stored_files(artifacts, ref), template)


def stored_files(artifacts: Artifacts, ref: str) -> dict[str, bytes]:
    """Return a stored base model's FILES. Raise FileNotFoundError or ArtifactCorrupt."""
    files: dict[str, bytes] = {}
    for file in artifacts.manifest(ref).files:
        if file.path in FILES:
            content = artifacts.get(f"{ref}/{file.path}")
            if hashlib.sha256(content).hexdigest() != file.sha256:
                raise ArtifactCorrupt(f"{ref}/{file.path} differs from its manifest")
            files[file.path] = content
    return files
