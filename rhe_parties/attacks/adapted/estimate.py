"""From adapted blocks to features of training images, with the error that such estimates are known to have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from rhe_parties.attacks.adapted.blocks import Blocks, Workshop
from rhe_parties.attacks.adapted.posterior import most_likely_inputs
from rhe_parties.attacks.adapted.rays import Rays, find_rays, row_space
from rhe_parties.attacks.pools import Pool
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["ErrorModel", "Estimate", "estimate_features"]

_LEAST_ERROR = 1e-3  # of the mean variance within a class: estimates may be exact, what is decoded from them is not


@dataclass(frozen=True, eq=False)
class Estimate:
    """What was found of V blocks' training images, in the order of training sets.

    Attributes:
        inputs: the trunk's outputs float32 [V, N, P].
        features: the public backbone's features of them, float32 [V, N, D].
        exact: how many heads were solved exactly.
    """

    inputs: FloatArray
    features: FloatArray
    exact: int


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """Errors of estimates as a Gaussian, measured on shadows: |whitener (estimate - φ)| is the distance to use.

    `variances` [D] are those along the whitener's rows; `share` is their mean's share of the variance within a class,
    without the floor that the whitener has.
    """

    whitener: FloatArray
    variances: FloatArray
    share: float

    @classmethod
    def fit(cls, errors: AnyArray, belief: FeaturePrior) -> ErrorModel:
        """Fit to errors [m, D] of estimates of what `belief` is about, made of shadows."""
        flat = errors.astype(np.float64)
        level = float(belief.eigenvalues.mean())
        own = float(np.square(flat).mean())
        # As many samples as features say little of single directions: the rest is taken to be alike in all of them.
        share = len(flat) / (len(flat) + flat.shape[1])
        rest = (1 - share) * own + _LEAST_ERROR * level
        values, vectors = np.linalg.eigh(share * flat.T @ flat / len(flat) + rest * np.eye(flat.shape[1]))
        whitener = (1 / np.sqrt(values))[:, None] * vectors.T
        return cls(whitener.astype(np.float32), values.astype(np.float32), own / level)


def estimate_features(blocks: Blocks, workshop: Workshop, steps: int, pool: Pool) -> Estimate:
    """What the training images' features were.

    A fine-tuned layer is solved exactly where its rays are found; else, and for factors, the most likely images are
    looked for, in so many `steps`.
    """
    workshop.check(blocks)
    inputs = np.empty((len(blocks), len(workshop.order), workshop.inputs.shape[1]), np.float32)
    left: AnyArray = np.ones(len(blocks), np.bool_)
    if not workshop.adaptation.rank:
        rays = find_rays(row_space(blocks, workshop), workshop)
        left = np.logical_not(rays.found.all(axis=1))
        for head in np.flatnonzero(~left).tolist():
            inputs[head] = rays.vectors[head][_places(rays, head, workshop)]
    if left.any():
        some = Blocks(blocks.names, blocks.first[left], blocks.second[left])
        inputs[left] = most_likely_inputs(some, workshop, steps, pool)
    return Estimate(inputs, workshop.features_of(inputs), int((~left).sum()))


def _places(rays: Rays, head: int, workshop: Workshop) -> IntArray:
    """Which ray belongs to each place of a training set [N]: the assignment that the class-wise prior likes best."""
    belief = workshop.belief
    seen = (rays.vectors[head] - belief.means[:, None]) @ belief.whitener.T.astype(np.float64)
    cost = np.square(seen).sum(-1)[workshop.order]
    places: IntArray = linear_sum_assignment(cost)[1]
    return places
