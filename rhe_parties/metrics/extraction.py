"""A claimed head against the true one: weights, and decisions on images that neither was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from rhe_parties.metrics.intervals import bootstrap_means, rate_interval
from rhe_parties.metrics.truth import GroundTruth, Measured, MeasuredClaim, check_shape, measured
from rhe_parties.model.binary_head import BinaryHead
from rhe_parties.model.head import LinearHead
from rhe_parties.model.mlp import DeepHead
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["Head", "measure_head", "queries_used", "weight_errors"]

Head: TypeAlias = LinearHead | BinaryHead

# Errors of weights are judged against this many bits of the weights' range; nobody claims more than a float32 holds.
_BITS, _MOST_BITS = 8, 24.0
# Other heads that each claim is compared with for what any head of the task would give.
_OTHERS = 16


def measure_head(
    claim: MeasuredClaim, truth: GroundTruth, heads: Sequence[Head], generator: np.random.Generator
) -> list[Measured]:
    """Cosine and errors of the weights and, where the truth holds features to compare on, agreement of the decisions.

    The value under chance is what the same claim gives against the *other* victims' heads.

    Raises:
        NumericError: weights or biases of another shape than the heads', or not finite.
    """
    weights = claim.get("weights")
    if weights is None or not heads:
        return []
    copies = _copies(claim, weights, heads[0].classes, heads[0].features, len(heads))
    linear = [head for head in heads if isinstance(head, LinearHead)]
    # Where only one of copy and head has a hidden layer there are no weights to compare, but both decide.
    alike = len(linear) == len(heads) and not claim.activation
    found = [head_cosine(weights, linear, generator), *weight_errors(weights, linear, generator)] if alike else []
    for name, features in (
        ("extraction_agreement", truth.agreement_features),
        ("extraction_agreement_mixes", truth.random_features),
    ):
        if features is not None:
            found.append(_agreement(name, copies, heads, features, generator))
    return found


def _copies(
    claim: MeasuredClaim, weights: FloatArray, classes: int, width: int, heads: int
) -> list[LinearHead | DeepHead]:
    """The claimed heads, behind their hidden layers where such are claimed."""
    hidden, offsets = claim.get("hidden_weights"), claim.get("hidden_biases")
    units = width if hidden is None else hidden.shape[1]
    check_shape("weights", weights, (heads, classes, units))
    biases = claim.get("biases")
    if biases is None:
        biases = np.zeros((heads, classes), dtype=np.float32)
    check_shape("biases", biases, (heads, classes))
    if hidden is None:
        return [LinearHead(*pair) for pair in zip(weights, biases, strict=True)]
    check_shape("hidden_weights", hidden, (heads, units, width))
    offsets = np.zeros((heads, units), dtype=np.float32) if offsets is None else offsets
    check_shape("hidden_biases", offsets, (heads, units))
    layers = zip(hidden, offsets, weights, biases, strict=True)
    return [DeepHead(((w, b), (v, c)), claim.activation) for w, b, v, c in layers]


def head_cosine(weights: FloatArray, heads: Sequence[LinearHead], generator: np.random.Generator) -> Measured:
    """Mean cosine between claimed and true weights, both centred over the classes (the shift decides nothing)."""
    true = np.stack([head.weight for head in heads]).astype(np.float64)
    claimed = weights.astype(np.float64)
    a, b = claimed - claimed.mean(axis=1, keepdims=True), true - true.mean(axis=1, keepdims=True)

    def cosine(other: AnyArray) -> AnyArray:
        norms = np.sqrt((a * a).sum((1, 2)) * (other * other).sum((1, 2)))
        found: AnyArray = np.divide((a * other).sum((1, 2)), norms, out=np.zeros(len(a)), where=norms > 0)
        return found

    own = cosine(b)
    chance = float(np.mean([cosine(np.roll(b, shift, axis=0)).mean() for shift in _shifts(len(a))]))
    return measured("head_cosine", float(own.mean()), bootstrap_means(own, generator), len(a), len(a), chance)


def weight_errors(weights: FloatArray, heads: Sequence[LinearHead], generator: np.random.Generator) -> list[Measured]:
    """How exact claimed weights are, up to what decides nothing: one factor, and a shift of all classes.

    Two statistics, means over heads: the share of weights within 2^-8 of the true ones' range, and bits per weight:
    those of a uniform quantiser of that range with the same root mean square error, log2(range / (√12·error)).
    """
    claimed, true = (_centred(np.asarray(w, dtype=np.float64)) for w in (weights, [head.weight for head in heads]))

    def errors(other: AnyArray) -> AnyArray:
        """Errors [V, K, D] in units of the other heads' ranges."""
        length = (claimed * claimed).sum((1, 2))
        factor = np.divide((claimed * other).sum((1, 2)), length, out=np.zeros(len(other)), where=length > 0)
        span = np.maximum(np.ptp(other, axis=(1, 2)), 1e-300)
        relative: AnyArray = (factor[:, None, None] * claimed - other) / span[:, None, None]
        return relative

    def shares(other: AnyArray) -> AnyArray:
        near: AnyArray = (np.abs(errors(other)) <= 2.0**-_BITS).mean((1, 2))
        return near

    def bits(other: AnyArray) -> AnyArray:
        root = np.sqrt(np.square(errors(other)).mean((1, 2)) * 12)
        exact: AnyArray = np.clip(-np.log2(np.maximum(root, 2.0**-_MOST_BITS)), 0.0, _MOST_BITS)
        return exact

    found = []
    for name, score in ((f"weights_within_{_BITS}_bits", shares), ("bits_per_weight", bits)):
        own = score(true)
        chance = float(np.mean([score(np.roll(true, shift, axis=0)).mean() for shift in _shifts(len(true))]))
        found.append(measured(name, float(own.mean()), bootstrap_means(own, generator), true.size, len(own), chance))
    return found


def _centred(weights: AnyArray) -> AnyArray:
    centred: AnyArray = weights - weights.mean(axis=1, keepdims=True)
    return centred


def _shifts(heads: int) -> range:
    return range(1, min(_OTHERS, heads - 1) + 1) if heads > 1 else range(1)


def _decisions(weights: AnyArray, biases: AnyArray, features: FloatArray) -> IntArray:
    logits = features.astype(np.float64) @ weights.astype(np.float64).T + biases
    decided: IntArray = np.argmax(logits, axis=1)
    return decided


def _decided(head: Head | DeepHead, features: FloatArray) -> IntArray:
    if isinstance(head, LinearHead):
        return _decisions(head.weight, head.bias, features)
    decided: IntArray = np.argmax(head.logits(features), axis=1)
    return decided


def _agreement(
    name: str,
    copies: Sequence[LinearHead | DeepHead],
    heads: Sequence[Head],
    features: FloatArray,
    generator: np.random.Generator,
) -> Measured:
    """Share of equal decisions on features [F, D]."""
    claimed = np.stack([_decided(head, features) for head in copies])
    true = np.stack([_decided(head, features) for head in heads])
    hits = (claimed == true).astype(np.float64)
    chance = float(np.mean([(claimed == np.roll(true, shift, axis=0)).mean() for shift in _shifts(len(heads))]))
    return measured(name, float(hits.mean()), rate_interval(hits, generator), hits.size, len(hits), chance)


def queries_used(queries: IntArray, generator: np.random.Generator) -> Measured:
    """Decisions per head that the adversary asked for, as the key holder counted them."""
    values = queries.astype(np.float64)
    interval = bootstrap_means(values, generator)
    return measured("queries", float(values.mean()), interval, int(queries.sum()), len(queries))
