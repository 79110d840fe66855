"""What people call the GPUs that jobs run on, and the regions where these stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

APART = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class DisplayNames:
    """The catalog's titles by their ids; what is offered no more goes by its id."""

    gpu_types: Mapping[str, str]
    regions: Mapping[str, str]
    cpus: Collection[str] = ()
    """The GPU types that a machine's CPU stands for."""

    def gpus(self, count: int, gpu_type: str) -> str:
        """Some GPUs of a type, such as `2 × NVIDIA L4 24 GB`."""
        title = self.gpu_type(gpu_type).replace(" GB", f"{APART}GB")
        return f"{count}{APART}×{APART}{title}"

    def gpu_type(self, name: str) -> str:
        """A GPU type, such as `NVIDIA L4 24 GB`."""
        return self.gpu_types.get(name, name)

    def region(self, name: str) -> str:
        """A region, such as `Frankfurt`."""
        return self.regions.get(name, name)
