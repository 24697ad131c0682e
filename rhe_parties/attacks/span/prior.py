"""What the adversary believes about a private image's features before it sees a head.

A Gaussian per class with one pooled covariance, fitted to auxiliary features: φ ~ N(μ_y, Σ); and beside it the exact
distribution of every single feature, which is far from Gaussian behind a ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rhe_parties.attacks.span.marginals import Marginals
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.dp import DpMechanism
from rhe_parties.types import FloatArray, IntArray

__all__ = ["FeaturePrior"]

Float64Array = npt.NDArray[np.float64]

_FLOOR = 1e-7  # of the largest eigenvalue: keeps dead features finite without letting them speak


@dataclass(frozen=True, eq=False)
class FeaturePrior:
    """Class-wise Gaussian prior of features.

    Attributes:
        means: class means, float64 [K, D].
        covariance: pooled within-class covariance after shrinkage, float64 [D, D].
        eigenvalues: its eigenvalues, ascending, floored at 1e-7 of the largest, float64 [D].
        eigenvectors: its orthonormal eigenvectors as columns, float64 [D, D].
        whitener: float32 [D, D]; |whitener (a - b)| is the Mahalanobis distance, eigenvalues floored at 1 % of their
            mean (recovered features err most, in relative terms, where the prior varies least). It knows nothing of a
            head; the inversion's own whitener (`Inversion.whitener`) identifies far better.
        marginals: distributions of single features; None: the Gaussian is all that is known.
    """

    means: Float64Array
    covariance: Float64Array
    eigenvalues: Float64Array
    eigenvectors: Float64Array
    whitener: FloatArray
    marginals: Marginals | None = None

    @classmethod
    def fit(cls, features: FloatArray, labels: IntArray, classes: int, shrinkage: float | None = None) -> FeaturePrior:
        """Fit to auxiliary features.

        Args:
            features: [n, D].
            labels: int64 [n] in 0..classes-1, every class present.
            classes: number of classes K.
            shrinkage: weight in [0, 1] of a multiple of the identity in the covariance; None: the oracle
                approximating estimate (Chen et al. 2010, IEEE TSP 58(10), eq. 23) for n - K samples.

        Returns:
            The prior.

        Raises:
            NumericError: features not finite, of the wrong shape, or without any variation inside the classes.
            DataError: a class without image, or no more images than classes.
            ParameterError: shrinkage outside [0, 1].
        """
        _check(features, labels, classes)
        if shrinkage is not None and not 0 <= shrinkage <= 1:
            raise ParameterError(f"shrinkage = {shrinkage} is not allowed: 0 to 1")
        exact = features.astype(np.float64)
        means = np.stack([exact[labels == label].mean(axis=0) for label in range(classes)])
        centred = exact - means[labels]
        freedom = len(exact) - classes
        covariance = centred.T @ centred / freedom
        if not covariance.trace() > 0:
            raise NumericError(
                "auxiliary features are the same for all images of each class: nothing to tell them apart"
            )
        weight = _oracle_shrinkage(covariance, freedom) if shrinkage is None else shrinkage
        width = covariance.shape[0]
        level = covariance.trace() / width
        covariance = (1 - weight) * covariance + weight * level * np.eye(width)
        eigenvalues, eigenvectors = np.linalg.eigh(covariance)
        eigenvalues = np.maximum(eigenvalues, _FLOOR * eigenvalues[-1])
        scale = 1 / np.sqrt(np.maximum(eigenvalues, 0.01 * level))
        whitener = (scale[:, None] * eigenvectors.T).astype(np.float32)
        return cls(means, covariance, eigenvalues, eigenvectors, whitener, Marginals.fit(features, labels, classes))

    def seen_from(self, mechanism: DpMechanism | None) -> FeaturePrior:
        """The prior of features as a private training sees them: measured from its centre, where it has one."""
        if mechanism is None or not mechanism.centre:
            return self
        return replace(self, means=self.means - np.asarray(mechanism.centre), marginals=None)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return int(self.means.shape[0])

    @property
    def width(self) -> int:
        """Number of features D."""
        return int(self.means.shape[1])


def _oracle_shrinkage(covariance: Float64Array, samples: int) -> float:
    width = covariance.shape[0]
    square, trace = float((covariance**2).sum()), float(covariance.trace())
    top = (1 - 2 / width) * square + trace**2
    bottom = (samples + 1 - 2 / width) * (square - trace**2 / width)
    return 1.0 if bottom <= 0 else float(min(1.0, top / bottom))


def _check(features: FloatArray, labels: IntArray, classes: int) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise NumericError(f"prior: features {features.shape} and labels {labels.shape} must be [n, D] and [n]")
    if not np.isfinite(features).all():
        raise NumericError("prior: auxiliary features hold NaN or infinity")
    if len(labels) <= classes:
        raise DataError(f"prior: {len(labels)} auxiliary images are too few for {classes} classes (more than one each)")
    missing = sorted(set(range(classes)) - set(labels.tolist()))
    if missing:
        raise DataError(f"prior: class {missing[0]} has no auxiliary image")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"prior: labels must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}")
