"""Claims about the images that were classified, made from what the key holder released about them."""

from __future__ import annotations

import numpy as np

from rhe_parties.errors import NumericError
from rhe_parties.metrics.intervals import bootstrap_means, rate_interval
from rhe_parties.metrics.separation import Separation, rate_at_fpr
from rhe_parties.metrics.similarity import ssim
from rhe_parties.metrics.truth import GroundTruth, Measured, check_shape, measured, squared_distances
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["InputErrors", "input_errors", "measure_inputs"]


class InputErrors:
    """Pixel errors of claimed inputs against the head's own inputs of the same class.

    Attributes:
        own: [V, B].
        hits: [V, B], 1 where the true input is the nearest of the head's inputs of its class (ties share it), and
            `chances` [V, B], 1 over their number.
        other: [M], errors against the head's other inputs of the class; `heads` [M], whose.
    """

    def __init__(self, truth: GroundTruth, claimed: FloatArray) -> None:
        if truth.inputs is None:
            raise NumericError("the claim holds inputs, but this task asked about none")
        check_shape("inputs", claimed, truth.inputs.shape)
        heads, count = claimed.shape[:2]
        self.labels: IntArray = (
            np.zeros((heads, count), dtype=np.int64) if truth.input_labels is None else truth.input_labels
        )
        self.own, self.hits, self.chances = (np.empty((heads, count)) for _ in range(3))
        others, owners = [], []
        pixels = int(np.prod(claimed.shape[2:]))
        for v in range(heads):
            flat, real = claimed[v].reshape(count, -1), truth.inputs[v].reshape(count, -1)
            table = squared_distances(flat, real) / pixels
            same = self.labels[v][:, None] == self.labels[v][None, :]
            self.own[v] = np.diagonal(table)
            best = np.where(same, table, np.inf).min(axis=1)
            ties = (same & (table <= best[:, None])).sum(axis=1)
            self.hits[v] = (self.own[v] <= best) / ties
            self.chances[v] = 1 / same.sum(axis=1)
            others.append(table[same & ~np.eye(count, dtype=bool)])
            owners.append(np.full(len(others[-1]), v, dtype=np.int32))
        self.other: AnyArray = np.concatenate(others)
        self.heads: IntArray = np.concatenate(owners)

    def separation(self) -> Separation | None:
        """Own against other errors; None where no two inputs of a head share a class."""
        if self.other.size == 0:
            return None
        count, width = self.own.shape
        return Separation(self.own.reshape(-1), np.repeat(np.arange(count), width), self.other, self.heads, count)


def input_errors(truth: GroundTruth, claimed: FloatArray) -> InputErrors:
    """The errors of a claim about inputs [V, B, C, H, W].

    Raises:
        NumericError: another shape than the true inputs', or numbers that are not finite.
    """
    return InputErrors(truth, claimed)


def measure_inputs(
    truth: GroundTruth, claimed: FloatArray, errors: InputErrors, generator: np.random.Generator, whole: bool = True
) -> list[Measured]:
    """Identification among the head's inputs of the class, pixel error, TPR and SSIM; for training images apart.

    Baselines: the same claims against the head's *other* inputs of the class, which is what the class alone gives.

    Args:
        whole: False leaves out what is dear to compute (SSIM, TPR).
    """
    heads = len(errors.own)
    rate = rate_interval(errors.hits, generator)
    chance = float(errors.chances.mean())
    found = [measured("input_identification_rate", float(errors.hits.mean()), rate, errors.hits.size, heads, chance)]
    other = float(errors.other.mean()) if errors.other.size else None
    everyone = np.ones(errors.own.shape, bool)
    groups = [("input_mse", everyone)]
    if truth.input_members is not None and truth.input_members.any():
        groups.append(("input_mse_members", truth.input_members.astype(bool)))
    for name, chosen in groups:
        counts = chosen.sum(axis=1)
        means = np.divide((errors.own * chosen).sum(axis=1), counts, out=np.zeros(heads), where=counts > 0)
        interval = bootstrap_means(means, generator, counts.astype(np.float64))
        found.append(measured(name, float(errors.own[chosen].mean()), interval, int(chosen.sum()), heads, other))
    data = errors.separation()
    if whole and data is not None:
        tpr = rate_at_fpr("input_tpr_at_fpr_1pct", [data], 0.01, generator)
        found += [tpr] if tpr is not None else []
    if whole and truth.inputs is not None:
        found.append(_similarity(truth.inputs, claimed, errors.labels, generator))
    return found


def _similarity(real: FloatArray, claimed: FloatArray, labels: IntArray, generator: np.random.Generator) -> Measured:
    shape = labels.shape
    flat = claimed.reshape(-1, *claimed.shape[2:])
    own = ssim(flat, real.reshape(flat.shape)).reshape(shape)
    following = _next_of_label(labels)
    other = np.take_along_axis(real, following[:, :, None, None, None], axis=1).reshape(flat.shape)
    apart = (following != np.arange(shape[1])[None, :]).reshape(-1)
    baseline = float(ssim(flat[apart], other[apart]).mean()) if apart.any() else None
    interval = bootstrap_means(own.mean(axis=1), generator)
    return measured("input_ssim", float(own.mean()), interval, own.size, len(own), baseline)


def _next_of_label(labels: IntArray) -> IntArray:
    """[V, B]: the head's next input of the same class, itself where there is none."""
    following = np.tile(np.arange(labels.shape[1]), (len(labels), 1))
    for row, classes in zip(following, labels, strict=True):
        for k in np.unique(classes):
            places = np.flatnonzero(classes == k)
            row[places] = np.roll(places, -1)
    return following
