"""Who multiplies the encrypted head by plain features: one interface, three evaluators, the same bytes.

`jit` is compiled for the CPU and the default there, `torch` runs on CPU or GPU and is the default on a GPU,
`seal` goes through SEAL itself and judges the others.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import unknown_name
from rhe_parties.he.plan import HeadPlan
from rhe_parties.types import AnyArray, IntArray

__all__ = ["BACKENDS", "Evaluator", "load_evaluator"]

BACKENDS = {
    "jit": "compiled for this CPU (numba)",
    "torch": "torch on CPU or GPU, features stay on the device",
    "torch-fused": "the same with steps compiled into fewer kernels (torch.compile)",
    "seal": "SEAL's own products, the judge of the others",
}


class Evaluator(Protocol):
    """Multiplies plain features by an encrypted head; holds no secret and draws no randomness."""

    def evaluate(self, features: AnyArray, masks: IntArray) -> tuple[list[bytes], int]:
        """Replies without checksum, class tiles of the first request polynomial first, and saturated inputs.

        Args:
            features: float32 or float64 [B, D], finite.
            masks: int64 [requests, class tiles, check_count], uniform below t.
        """
        ...


def load_evaluator(
    plan: HeadPlan, residues: npt.NDArray[np.uint64], backend: str = "auto", device: str = "cpu"
) -> Evaluator:
    """The evaluator of a head.

    Args:
        plan: of scheme `bfv`.
        residues: the encrypted head, uint64 [class tiles, feature tiles, 2, N], each below q.
        backend: one of `BACKENDS`, or `auto`: `torch` on a GPU, `jit` elsewhere.
        device: torch's name of the device.

    Raises:
        ParameterError: unknown backend.
    """
    if backend == "auto":
        backend = "torch" if device.partition(":")[0] not in ("", "cpu") else "jit"
    if backend == "jit":
        from rhe_parties.he.jit_evaluator import JitEvaluator

        return JitEvaluator(plan, residues)
    if backend in ("torch", "torch-fused"):
        from rhe_parties.he.torch_evaluator import TorchEvaluator

        return TorchEvaluator(plan, residues, device, fuse=backend == "torch-fused")
    if backend == "seal":
        from rhe_parties.he.seal_evaluator import SealEvaluator

        return SealEvaluator(plan, residues)
    raise unknown_name("evaluator", backend, (*BACKENDS, "auto"))
