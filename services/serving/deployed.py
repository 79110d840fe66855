"""What is put into memory to be served, and the port to whatever holds it there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True)
class Served:
    """The weights of one deployment: a base alone, or an adapter on its base.

    Bases with one `base_sha256` are the same, whoever deployed what on them: they are held once.
    """

    deployment_id: UUID
    model: str  # the name in requests: `smollm2-135m-instruct`, `ft:...`
    base_model: str
    base_sha256: str  # of the base's manifest, which pins every file
    base_directory: Path
    adapter_directory: Path | None  # plain PEFT; None: the base itself


class CannotServe(Exception):
    """Weights that this host cannot answer with: another attempt would end the same way.

    The code is stable, the message is a sentence for the deployment's owner.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Host(Protocol):
    """Holds models in memory. Called by one thread at a time, beside those that serve requests."""

    def attach(self, served: Served) -> None:
        """Return once the model answers requests; raises CannotServe.

        What is attached already changes nothing. Other weights under the same deployment replace
        those that were there, when they are ready.
        """
        ...

    def detach(self, deployment_id: UUID) -> None:
        """Have a deployment answer no more requests; those that it answers now may end.

        A base stays in memory as long as anything is served from it. What is not attached is not
        missed.
        """
        ...
