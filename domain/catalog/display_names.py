"""Display names of GPU types and regions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

APART = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class DisplayNames:
    """Display names by ID. Of a withdrawn GPU type or region, the ID is shown."""

    gpu_types: Mapping[str, str]
    regions: Mapping[str, str]
    cpus: Collection[str] = ()
    """GPU types that a CPU provides."""

    def gpus(self, count: int, gpu_type: str) -> str:
        """Return `count` GPUs of a type as display text, such as `2 × NVIDIA L4 24 GB`."""
        title = self.gpu_type(gpu_type).replace(" GB", f"{APART}GB")
        return f"{count}{APART}×{APART}{title}"

    def gpu_type(self, name: str) -> str:
        """Return the display name of a GPU type, such as `NVIDIA L4 24 GB`."""
        return self.gpu_types.get(name, name)

    def region(self, name: str) -> str:
        """Return the display name of a region, such as `Frankfurt`."""
        return self.regions.get(name, name)
