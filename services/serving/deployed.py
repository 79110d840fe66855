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


REASONS = {
    "weights_missing": "Its weights, or those of its base, are no longer in the artifact store.",
    "weights_damaged": "Its weights, or those of its base, are not what the event log says.",
    "not_an_adapter": "What is stored is no adapter that PEFT loads.",
    "adapter_unreadable": "The files of the adapter cannot be read.",
    "adapter_mismatch": "The adapter does not fit its base.",
    "adapter_not_finite": "The adapter has weights that are no numbers.",
    "unsupported_adapter": "The adapter is more than plain LoRA of linear layers, "
    "which is what can be served.",
    "base_unreadable": "The files of the base cannot be read.",
    "unsupported_tokenizer": "The base has no fast tokenizer, which serving needs.",
    "unsupported_architecture": "The base attends in a way that serving does not know: "
    "its answers would be wrong.",
    "load_failed": "The weights could not be loaded; serving's process log says why.",
    "no_room": "Serving had too little memory, file handles or disk to load it, at every attempt.",
    "serving_died": "The serving process died repeatedly while it loaded this. The usual cause is "
    "too little memory.",
}
"""Why something cannot be served, for its owner. Events keep these sentences for good, so that they
hold no text of a library and no path of a machine: such details are for the process log."""


class CannotServe(Exception):
    """Weights that this host cannot answer with: another attempt would end the same way.

    The code is one of REASONS. The detail is for whoever reads the process log, and for nobody
    else.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        self.message = REASONS[code]
        super().__init__(f"{self.message} {detail}".rstrip())


class Host(Protocol):
    """Holds models in memory. Called by one thread at a time, beside those that serve requests."""

    def attach(self, served: Served) -> None:
        """Return once the model answers requests; raises CannotServe.

        Where the machine lacks something (`is_shortage`), that is raised as it is. What
        is attached already changes nothing. Other weights under the same deployment replace those
        that were there, when they are ready.
        """
        ...

    def detach(self, deployment_id: UUID) -> None:
        """Have a deployment answer no more requests; those that it answers now may end.

        A base stays in memory as long as anything is served from it. What is not attached is not
        missed.
        """
        ...
