"""Numbers of two-layer heads that depend on what a head computes, not on how its units happen to be written down.

Units may change places; a ReLU unit may be multiplied by c > 0 and its output weight divided by c; a unit of x² may
change sign too, and its output weight is divided by c². What is left of a ReLU head is summed over the units that speak
for and against class 1. A square head is a quadratic form, φ̃ᵀ M φ̃ with φ̃ = (φ, 1) and M = Σ_h v_h w̃_h w̃_hᵀ, and
whatever follows from M alone is left of it. All of these are smooth in the weights, so that a linear estimate of
training features can start from them (`rhe_parties.attacks.span.cross_fit`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import NumericError
from rhe_parties.model.two_layer import BatchRecipe, parameter_count, split_parameters
from rhe_parties.types import FloatArray, IntArray

__all__ = ["Invariants"]

Float64Array = npt.NDArray[np.float64]
Parts = tuple[FloatArray, ...]

_LOUD = 4  # features whose columns of M are read from ciphertexts; 8 take twice the time (30 % identified, 27 % with 4)
_BLOCK = 1024  # heads at a time


@dataclass(frozen=True, eq=False)
class Invariants:
    """From flat parameters of heads of one recipe to numbers.

    Attributes:
        recipe: shape of the heads.
        mean: average features [D], around which heads are looked at.
        loud: indices of the features of largest variance.
    """

    recipe: BatchRecipe
    mean: Float64Array
    loud: IntArray

    @classmethod
    def of(cls, recipe: BatchRecipe, features: FloatArray) -> Invariants:
        """For heads of a recipe on features like these [n, D].

        Raises:
            NumericError: features that are not [n, D] or not finite.
        """
        if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
            raise NumericError(f"invariants of heads take finite features [n, D], got {features.shape}")
        exact = features.astype(np.float64)
        loud = np.argsort(-exact.var(axis=0), kind="stable")[:_LOUD]
        return cls(recipe, exact.mean(axis=0), loud.astype(np.int64))

    def numbers(self, flat: FloatArray) -> FloatArray:
        """Numbers float32 [V, p] of flat parameters [V, P].

        ReLU: Σ v_h (w_h, b_h) over v_h > 0 and over v_h < 0, and the output bias: p = 2D + 3. Square: the positive and
        the negative part of M, each applied to the average (φ, 1), and each one's leading eigenvector times the root of
        its eigenvalue, pointing towards the average: p = 4D + 4.

        Raises:
            NumericError: parameters of another number, or not finite.
        """
        if self.recipe.activation == "square":
            return self._in_blocks(flat, lambda part: _form_numbers(part, self.mean))
        return self._in_blocks(flat, _relu_numbers)

    def readable(self, flat: FloatArray) -> FloatArray:
        """Single entries float32 [V, (loud + 1)·D] of the forms M of square heads, which is what ciphertexts hold.

        The columns of the loudest features and the linear one, Σ v_h b_h w_h; each is a sum that quantised integers
        in an unencrypted twin show directly, where the weights themselves appear nowhere.

        Raises:
            NumericError: heads of another activation, parameters of another number, or not finite.
        """
        if self.recipe.activation != "square":
            raise NumericError(f"a {self.recipe.activation} head is no quadratic form: nothing of it is encrypted")

        def entries(part: Parts) -> Float64Array:
            weight, bias, out, _ = (array.astype(np.float64) for array in part)
            columns = np.concatenate([weight[:, :, self.loud], bias[:, :, None]], axis=2) * out[:, 0, :, None]
            found: Float64Array = (columns.transpose(0, 2, 1) @ weight).reshape(len(weight), -1)
            return found

        return self._in_blocks(flat, entries)

    def _in_blocks(self, flat: FloatArray, function: Callable[[Parts], Float64Array]) -> FloatArray:
        width = len(self.mean)
        expected = parameter_count(self.recipe, width, 2)
        if flat.ndim != 2 or flat.shape[1] != expected or not np.isfinite(flat).all():
            raise NumericError(
                f"heads of this recipe have {expected} finite parameters each, got an array {flat.shape}"
            )
        parts = [split_parameters(flat[i : i + _BLOCK], self.recipe, width, 2) for i in range(0, len(flat), _BLOCK)]
        return np.concatenate([function(part) for part in parts]).astype(np.float32)


def _relu_numbers(part: Parts) -> Float64Array:
    weight, bias, out, offset = (array.astype(np.float64) for array in part)
    whole = np.concatenate([weight, bias[..., None]], axis=2)
    sides = [np.maximum(out, 0), np.minimum(out, 0)]  # [B, 1, H]
    return np.concatenate([*((side @ whole)[:, 0] for side in sides), offset], axis=1)


def _form_numbers(part: Parts, mean: Float64Array) -> Float64Array:
    weight, bias, out, offset = (array.astype(np.float64) for array in part)
    # The output bias is one more unit, of weight 0 and bias 1: then everything follows from M.
    whole = np.concatenate([weight, bias[..., None]], axis=2)
    last = np.zeros((len(whole), 1, whole.shape[2]))
    last[:, 0, -1] = 1.0
    whole = np.concatenate([whole, last], axis=1)
    scales = np.concatenate([out[:, 0], offset], axis=1)
    # M = Q (R diag(v) Rᵀ) Qᵀ: eigenvectors of a matrix as wide as the hidden layer.
    basis, upper = np.linalg.qr(whole.transpose(0, 2, 1))
    values, turn = np.linalg.eigh((upper * scales[:, None]) @ upper.transpose(0, 2, 1))
    vectors = (basis @ turn).transpose(0, 2, 1)
    along = vectors @ np.append(mean, 1.0)
    vectors = vectors * np.where(along < 0, -1.0, 1.0)[..., None]
    found = []
    for half, lead in ((np.maximum(values, 0), -1), (np.minimum(values, 0), 0)):
        found.append(((half * np.abs(along))[:, None] @ vectors)[:, 0])
        found.append(np.sqrt(np.abs(half[:, lead, None])) * vectors[:, lead])
    return np.concatenate(found, axis=1)
