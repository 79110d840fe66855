"""The weights of a deployment, and the port to the engine that loads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True)
class Served:
    """The weights of a deployment: a base model (loaded once per hash), or an adapter on it."""

    deployment_id: UUID
    model: str  # name in requests, such as `smollm2-135m-instruct` or `ft:...`
    base_model: str
    base_sha256: str  # hash of the base model's manifest, which contains the hash of every file
    base_directory: Path
    adapter_directory: Path | None  # None: the base model alone


REASONS = {
    "weights_missing": (
        "Weights of the adapter or of its base model are missing from the artifact store."
    ),
    "weights_damaged": (
        "The hash of the adapter's or the base model's weights differs from the event log."
    ),
    "not_an_adapter": "The stored files are not a PEFT adapter.",
    "adapter_unreadable": "Serving cannot read the files of the adapter.",
    "adapter_mismatch": "The adapter does not fit its base model.",
    "adapter_not_finite": "The adapter has weights that are NaN or infinite.",
    "unsupported_adapter": "EcoLink serves only LoRA and DoRA adapters of linear layers.",
    "base_unreadable": "Serving cannot read the files of the base model.",
    "unsupported_tokenizer": "The base model has no fast tokenizer, which serving needs.",
    "unsupported_architecture": "Serving does not support this base model's kind of attention.",
    "load_failed": (
        "Serving cannot load the weights. The log of the serving process has the reason."
    ),
    "no_room": (
        "Serving has too little memory or disk space, or too few file handles, to load the model."
    ),
    "serving_died": "The serving process died several times while it loaded the model. The "
    "usual cause is too little memory.",
}
"""Messages by code. Events store them forever: no library messages and no paths."""


class CannotServe(Exception):
    """No retry can serve these weights. The code is one of REASONS; the detail is for the log."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        self.message = REASONS[code]
        super().__init__(f"{self.message} {detail}".rstrip())


class Host(Protocol):
    """An engine that keeps models in memory. One thread at a time calls its methods."""

    def attach(self, served: Served) -> None:
        """Load a deployment. Return when it can serve requests.

        If the same weights are already attached, do nothing. Other weights of the same deployment
        replace the old ones once they are loaded. Raise CannotServe if the weights cannot be
        served. Errors of exhausted resources propagate unchanged.
        """
        ...

    def detach(self, deployment_id: UUID) -> None:
        """Stop accepting requests for a deployment. Answers in progress may finish.

        A base model stays in memory while any deployment uses it. Ignore an unknown deployment.
        """
        ...
