"""The evaluator that goes through SEAL alone: slower than the compiled one, and the judge of all others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as sealapi

from rhe_parties.errors import FailureCode
from rhe_parties.he import sealio
from rhe_parties.he.plan import FINE_BITS, HeadPlan
from rhe_parties.he.quantise import lift_columns, quantise_features
from rhe_parties.he.reply import pack_reply, reply_positions
from rhe_parties.types import AnyArray, IntArray

__all__ = ["SealEvaluator"]


class SealEvaluator:
    """Plain × cipher products in SEAL's transform form, sums, and back; see `evaluators.Evaluator`.

    Args:
        plan: of scheme `bfv`.
        residues: the encrypted head, uint64 [class tiles, feature tiles, 2, N], each below q.
    """

    def __init__(self, plan: HeadPlan, residues: npt.NDArray[np.uint64]) -> None:
        self._plan = plan
        self._context = context = sealio.plan_context(plan)
        self._level = list(context.first_parms_id())
        self._evaluator = sealapi.Evaluator(context)
        self._head = [[self._load(tile) for tile in row] for row in residues]

    def _load(self, residues: npt.NDArray[np.uint64]) -> Any:
        value = sealio.make_ciphertext(self._context, residues)
        with sealio.guarded("preparing the encrypted head"):
            self._evaluator.transform_to_ntt_inplace(value)
        return value

    def evaluate(self, features: AnyArray, masks: IntArray) -> tuple[list[bytes], int]:
        """See `evaluators.Evaluator.evaluate`."""
        plan = self._plan
        integers, saturated = quantise_features(plan, features)
        replies: list[bytes] = []
        with sealio.guarded("evaluating the encrypted head", FailureCode.INTERNAL):
            for request, start in enumerate(range(0, len(integers), plan.batch)):
                columns = lift_columns(plan, integers[start : start + plan.batch])
                replies += self._request(columns, masks[request])
        return replies, saturated

    def _request(self, columns: IntArray, masks: IntArray) -> list[bytes]:
        plan = self._plan
        inputs = [self._encode(tile) for tile in plan.layout.pack_features(columns)]
        replies = []
        for class_tile, tiles in enumerate(self._head):
            c0, c1 = self._sum(tiles, inputs)
            logits, _ = reply_positions(plan, class_tile, len(columns))
            replies.append(pack_reply(plan, c0, c1, logits, masks[class_tile]))
        return replies

    def _encode(self, tile: IntArray) -> Any:
        """The transformed plaintext of one feature tile, or None for zeros (SEAL refuses those)."""
        if not tile.any():
            return None
        value = sealio.make_plaintext(self._context, tile, 1 << FINE_BITS)
        self._evaluator.transform_to_ntt_inplace(value, self._level)
        return value

    def _sum(self, tiles: list[Any], inputs: list[Any]) -> npt.NDArray[np.uint64]:
        """Σ tile · input as residues uint64 [2, N] in coefficient form."""
        evaluator = self._evaluator
        total, product = None, sealapi.Ciphertext(self._context)
        for tile, encoded in zip(tiles, inputs, strict=True):
            if encoded is None:
                continue
            if total is None:
                total = sealapi.Ciphertext(self._context)
                evaluator.multiply_plain(tile, encoded, total)
            else:
                evaluator.multiply_plain(tile, encoded, product)
                evaluator.add_inplace(total, product)
        # The constant column is never zero, so there is always one product.
        evaluator.transform_from_ntt_inplace(total)
        residues: npt.NDArray[np.uint64] = sealio.ciphertext_residues(total)[:, 0]
        return residues
