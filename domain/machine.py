"""Machine: what the CPU is good at that stands for GPUs of a CPU-backed type."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from domain.precision import Dtype


class Machine(BaseModel):
    """What the scheduler found out about the machine that CPU-backed segments run on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str  # its name in the network
    processor: str
    cores: int  # that trainers may use
    dtype: Dtype  # bf16 if the processor multiplies it natively
    tflops: float | None  # in that dtype, by the one-second probe; None: not measured yet

    def differs(self, other: Machine | None) -> bool:
        """Return True if `other` says something else; the speed alone must differ by over 20%."""
        if other is None or self.model_copy(update={"tflops": other.tflops}) != other:
            return True
        if self.tflops is None or other.tflops is None:
            return self.tflops is not None
        return abs(self.tflops / other.tflops - 1) > 0.2
