"""Reads a property of the training set off a head's weights.

Source: the shadow recipe of Ateniese et al. 2015 and Ganju et al. 2018, as in Suri & Evans 2022 (arXiv 2109.06024). A
linear head has no hidden neurons to permute, so its standardised weights go straight into principal components; the
biases are kept as they are, because they nearly count the images of each class (b_k ≈ η Σ_t (n_k/N - mean p_k)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.rng import numpy_stream, stream_seed
from rhe_parties.types import FloatArray, IntArray

__all__ = ["READERS", "PropertyReader", "fit_property_reader"]

Float64Array = npt.NDArray[np.float64]

READERS = ("logistic", "mlp", "biases")
_HELD_OUT = 0.2
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # inverse penalties of the logistic regression


@dataclass(frozen=True, eq=False)
class PropertyReader:
    """A trained reader; `accuracy` is its share of right answers on `held_out` shadow heads it was not trained on."""

    accuracy: float
    held_out: int
    _mean: Float64Array
    _scale: Float64Array
    _directions: Float64Array
    _model: Any

    def log_posterior(self, weight: FloatArray, bias: FloatArray) -> FloatArray:
        """log p(value | head), float32 [V, P], of heads [V, K, D], [V, K].

        Raises:
            NumericError: heads of another shape, or not finite.
        """
        flat = _flat(weight, bias)
        if flat.shape[1] != len(self._mean):
            raise NumericError(f"property reader takes heads of {len(self._mean)} numbers, got {flat.shape[1]}")
        with threadpool_limits(1):
            chance = self._model.predict_proba(_reduced(flat, self._mean, self._scale, self._directions, bias.shape[1]))
        found: FloatArray = np.log(np.maximum(chance, 1e-30)).astype(np.float32)
        return found


def fit_property_reader(
    weight: FloatArray, bias: FloatArray, values: IntArray, reader: str, components: int, seed: int
) -> PropertyReader:
    """Train on shadow heads.

    Args:
        weight: [n, K, D].
        bias: [n, K].
        values: index of each shadow's property value, int64 [n] in 0..P-1, every value present.
        reader: `logistic`: on principal components and biases; `mlp`: a network of 128 and 64 units on the same;
            `biases`: logistic on the biases alone, the analytic baseline for class shares.
        components: principal components of the weights.
        seed: root seed.

    Raises:
        ParameterError: unknown reader, or no component.
        DataError: fewer than two values, or fewer than ten shadows of one.
        NumericError: heads that are not finite or do not fit together.
    """
    if reader not in READERS or components < 1:
        raise ParameterError(
            f"property reader={reader!r} with {components} components is not allowed "
            f"(readers: {', '.join(READERS)}; at least 1 component)"
        )
    flat = _flat(weight, bias)
    counts = np.bincount(values)
    if len(counts) < 2 or counts.min() < 10 or len(values) != len(flat):
        raise DataError(f"property reader: {counts.tolist()} shadow heads per value: at least 10 of at least 2 values")
    order = numpy_stream(seed, "property-held-out").permutation(len(flat))
    held, train = order[: int(_HELD_OUT * len(order))], order[int(_HELD_OUT * len(order)) :]
    mean, spread = flat[train].mean(axis=0), flat[train].std(axis=0)
    # A dead feature never moves its weights; it must stay silent.
    scale = np.where(spread > 1e-6 * spread.max(), 1 / np.maximum(spread, 1e-30), 0.0)
    with threadpool_limits(1):
        directions = _principal((flat[train] - mean) * scale, bias.shape[1], 0 if reader == "biases" else components)
        reduced = _reduced(flat, mean, scale, directions, bias.shape[1])
        model = _fit(reduced[train], values[train], reader, stream_seed(seed, "property-model"))
        accuracy = float((model.predict(reduced[held]) == values[held]).mean())
    return PropertyReader(accuracy, len(held), mean, scale, directions, model)


def _fit(x: Float64Array, y: IntArray, reader: str, seed: int) -> Any:
    # Imported here: what only lists strategies should not wait for it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    if reader == "mlp":
        network = MLPClassifier((128, 64), early_stopping=True, random_state=seed % 2**32, max_iter=100)
        return network.fit(x, y)
    choose = numpy_stream(seed, "choose").random(len(x)) < 0.25
    scores = []
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=500).fit(x[~choose], y[~choose])
        scores.append(model.score(x[choose], y[choose]))
    return LogisticRegression(C=_STRENGTHS[int(np.argmax(scores))], max_iter=500).fit(x, y)


def _principal(standard: Float64Array, classes: int, components: int) -> Float64Array:
    """Leading directions [K·D, components] of standardised weights, each scaled to unit variance of its score."""
    weights = standard[:, :-classes]
    if components == 0:
        return np.zeros((weights.shape[1], 0))
    # The Gram matrix of the heads is smaller than the weights' covariance, or of like size.
    gram = weights @ weights.T if len(weights) < weights.shape[1] else weights.T @ weights
    values, vectors = np.linalg.eigh(gram)
    top = values > 1e-9 * values[-1]
    values, vectors = values[top][::-1][:components], vectors[:, top][:, ::-1][:, :components]
    found: Float64Array = weights.T @ vectors / np.sqrt(values) if len(weights) < weights.shape[1] else vectors
    scaled: Float64Array = found * np.sqrt(len(weights) / values)
    return scaled


def _reduced(
    flat: Float64Array, mean: Float64Array, scale: Float64Array, directions: Float64Array, classes: int
) -> Float64Array:
    standard = (flat - mean) * scale
    found: Float64Array = np.concatenate([standard[:, :-classes] @ directions, standard[:, -classes:]], axis=1)
    return found


def _flat(weight: FloatArray, bias: FloatArray) -> Float64Array:
    if weight.ndim != 3 or bias.shape != weight.shape[:2] or len(weight) == 0:
        raise NumericError(f"property reader takes heads [V, K, D] and [V, K], got {weight.shape} and {bias.shape}")
    flat = np.concatenate([weight.reshape(len(weight), -1), bias], axis=1).astype(np.float64)
    if not np.isfinite(flat).all():
        raise NumericError("property reader: heads hold NaN or infinity")
    return flat
