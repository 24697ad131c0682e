"""How likely a head's weights are if a candidate was in its training set, in closed form.

The span identity says W = s·W_0 + AᵀX. Given the dual coefficients A, W is Gaussian under the prior of features, both
with the rows of X all unknown and with one of them, n, known to be φ. Along an eigenvector of the prior's covariance
(eigenvalue λ; r: what W holds beyond the class means, C its covariance; δ: φ less its class mean; a: row n of A),

    log p(r | φ) - log p(r) = -½ [(λ u² - 2 δ u + δ² q) / (1 - λ q) + log(1 - λ q)],   u = aᵀC⁻¹r, q = aᵀC⁻¹a

by the Sherman-Morrison formula. The sum over all directions is the log-likelihood ratio of membership at place n.
"""

from __future__ import annotations

import numpy as np
import torch

from rhe_parties.attacks.span.inversion import Inversion
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.errors import NumericError
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray, IntArray

__all__ = ["span_evidence"]

_HEADS = 32  # at a time


def span_evidence(
    weight: FloatArray,
    inversion: Inversion,
    prior: FeaturePrior,
    features: FloatArray,
    labels: IntArray,
    images_per_class: int,
) -> FloatArray:
    """Log-likelihood ratios of membership.

    Args:
        weight: [V, K, D].
        inversion: `invert_heads` of the same heads: where A and the noise come from.
        prior: the adversary's prior of features.
        features: of the candidates [V, M, D].
        labels: their classes [V, M].
        images_per_class: S; the place of a candidate among the S of its class is unknown and averaged over.

    Returns:
        float32 [V, M], larger: rather a member.

    Raises:
        NumericError: shapes that do not fit together, or features that are not finite.
    """
    if features.ndim != 3 or labels.shape != features.shape[:2] or len(features) != len(weight):
        raise NumericError(f"candidates {features.shape} and labels {labels.shape} do not fit {len(weight)} heads")
    if not np.isfinite(features).all():
        raise NumericError("features of the candidates hold NaN or infinity")
    with limited_threads(1):
        parts = [
            _evidence(weight[i : i + _HEADS], inversion.coefficients[i : i + _HEADS], inversion.noise_std, prior,
                      features[i : i + _HEADS], labels[i : i + _HEADS], images_per_class)
            for i in range(0, len(weight), _HEADS)
        ]  # fmt: skip
    return np.concatenate(parts).astype(np.float32)


def _evidence(
    weight: FloatArray,
    coefficients: FloatArray,
    noise_std: float,
    prior: FeaturePrior,
    features: FloatArray,
    labels: IntArray,
    per_class: int,
) -> FloatArray:
    basis, spread = torch.from_numpy(prior.eigenvectors), torch.from_numpy(prior.eigenvalues)
    means = torch.from_numpy(prior.means) @ basis
    dual = torch.from_numpy(coefficients).double()
    everywhere = means.repeat_interleave(per_class, dim=0)
    beyond = torch.from_numpy(np.ascontiguousarray(weight)).double() @ basis - dual.mT @ everywhere
    strength, vectors = torch.linalg.eigh(dual.mT @ dual)
    gain = dual @ vectors
    trust = 1 / (spread * strength.clamp_min(0)[..., None] + noise_std**2)
    seen = gain @ (vectors.mT @ beyond * trust)  # u [V, N, D]
    power = gain.square() @ trust  # q [V, N, D]
    classes = torch.tensor(labels)
    away = torch.from_numpy(features).double() @ basis - means[classes]
    heads = torch.arange(len(weight))[:, None]
    places = []
    for place in range(per_class):
        u, q = seen[heads, classes * per_class + place], power[heads, classes * per_class + place]
        rest = (1 - spread * q).clamp_min(1e-9)
        quadratic = (spread * u.square() - 2 * away * u + away.square() * q) / rest
        places.append(-0.5 * (quadratic + rest.log()).sum(-1))
    found: FloatArray = torch.stack(places).logsumexp(0).sub(np.log(per_class)).numpy()
    return found
