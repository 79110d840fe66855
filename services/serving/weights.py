"""The weights of deployments, fetched from the artifact store and verified by hash."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from domain.deployments.deployment import AdapterWeights, Deployment, Weights
from infrastructure.artifacts.disk_cache import MODELS
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts
from infrastructure.chat.chat_template import CHAT_TEMPLATE
from services.serving.deployed import CannotServe, Served

ADAPTER_FILES = frozenset({"adapter_config.json", "adapter_model.safetensors"})
"""Files of a plain PEFT adapter. Serving needs no other file of a checkpoint, except OPTIONAL."""

OPTIONAL = frozenset({CHAT_TEMPLATE})
"""Files of an adapter that serving copies if they exist."""

COPY_VERSION = 2
"""Part of the name of a copy. Increase it when copies contain other files."""


class WeightStore:
    """Directories of weights on this machine.

    Serving uses a base model in a file store in place, so that all processes map the same files,
    and verifies only its manifest. It copies all other weights and verifies the hash of each file.
    Serving and trainers share the copy of a base model. Other processes may delete a copy that no
    deployment here uses.
    """

    def __init__(self, artifacts: Artifacts, cache: Path) -> None:
        self._artifacts = artifacts
        self._models, self._adapters = cache / MODELS, cache / "adapters"
        self._used: dict[UUID, str] = {}  # manifest hash of the adapter, by deployment
        self._bases: dict[UUID, Path] = {}  # directory of the base model, by deployment

    def fetch(self, deployment: Deployment) -> Served:
        """Return the weights of a deployment. Copy them to the disk of this machine if needed.

        Raise CannotServe if weights are missing or differ from the log. An unreachable store raises
        a different error, because the weights are not at fault.
        """
        weights = deployment.weights
        adapter = weights.adapter
        if adapter is None or self._used.get(deployment.id) != adapter.manifest_sha256:
            self._forget_adapter(deployment.id)
        if adapter is not None:
            self._used[deployment.id] = adapter.manifest_sha256
        return Served(
            deployment_id=deployment.id,
            model=deployment.model,
            base_model=weights.base_model,
            base_sha256=weights.base_manifest_sha256,
            base_directory=self._base(deployment.id, weights),
            adapter_directory=self._adapter(adapter) if adapter else None,
        )

    def forget(self, deployment_id: UUID) -> None:
        """Release the base model and adapter copy, unless another deployment uses them."""
        self._forget_base(deployment_id)
        self._forget_adapter(deployment_id)

    def _forget_base(self, deployment_id: UUID) -> None:
        base = self._bases.pop(deployment_id, None)
        if base is not None:
            self._artifacts.release_directory(base)

    def _forget_adapter(self, deployment_id: UUID) -> None:
        sha256 = self._used.pop(deployment_id, None)
        if sha256 is not None and sha256 not in self._used.values():
            shutil.rmtree(self._copy_of(sha256), ignore_errors=True)

    def forget_all_but(self, deployments: Iterable[Deployment]) -> None:
        """Delete all adapters that none of these deployments uses, and copies of other versions."""
        adapters = (each.weights.adapter for each in deployments)
        kept = {self._copy_of(each.manifest_sha256) for each in adapters if each is not None}
        if self._adapters.exists():
            for copy in self._adapters.iterdir():
                if copy not in kept:
                    shutil.rmtree(copy)

    def _base(self, deployment_id: UUID, weights: Weights) -> Path:
        self._require(weights.base_ref, weights.base_manifest_sha256, "base model")
        try:
            base = self._artifacts.local_directory(weights.base_ref, self._models)
        except ArtifactCorrupt as error:
            raise _damaged("base model") from error
        self._forget_base(deployment_id)
        self._bases[deployment_id] = base
        return base

    def _adapter(self, adapter: AdapterWeights) -> Path:
        """Return the directory of an adapter. Copy its files unless a verified copy exists."""
        target = self._copy_of(adapter.manifest_sha256)
        if target.exists():
            return target
        paths = self._require(adapter.ref, adapter.manifest_sha256, "adapter")
        if not paths >= ADAPTER_FILES:
            raise CannotServe("not_an_adapter", adapter.ref)
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            self._artifacts.get_directory(
                adapter.ref, partial, only=paths & (ADAPTER_FILES | OPTIONAL)
            )
        except ArtifactCorrupt as error:
            raise _damaged("adapter") from error
        partial.rename(target)
        return target

    def _copy_of(self, manifest_sha256: str) -> Path:
        return self._adapters / f"{manifest_sha256}-{COPY_VERSION}"

    def _require(self, ref: str, manifest_sha256: str, what: str) -> frozenset[str]:
        """Compare the manifest of a ref with the log. Return the paths of its files."""
        try:
            manifest = self._artifacts.manifest(ref)
        except FileNotFoundError as error:
            raise CannotServe("weights_missing", f"The {what} is missing: {ref}") from error
        except ArtifactCorrupt as error:
            raise _damaged(what) from error
        if manifest.sha256 != manifest_sha256:
            raise _damaged(what)
        return frozenset(file.path for file in manifest.files)


def _damaged(what: str) -> CannotServe:
    return CannotServe("weights_damaged", f"The {what} is damaged.")
