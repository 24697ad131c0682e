"""Training features from a trained head, without a single shadow head.

Full-batch gradient descent on a linear softmax head stays in the span W = s·W_0 + AᵀX (representer theorem): X [N, D]
are the training features, A [N, K] the dual coefficients, s the decay of the initial weights W_0 ~ N(0, init_std²).
Given A and the Gaussian prior of X, everything is linear and Gaussian: per eigenvector of the prior's covariance
(eigenvalue λ) and per eigenvector of AᵀA (eigenvalue g) the posterior mean of X is a closed-form shrinkage. A in turn
follows from X by simulating the training, so the two steps alternate. The one combination of X that A hides is then
found from the exact distributions of the single features (see `anchor`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.span.anchor import Anchor, Sight
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.model.dp import DpMechanism
from rhe_parties.model.head import Recipe
from rhe_parties.model.loss import clip_factors, loss_errors
from rhe_parties.threads import limited_threads
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["Inversion", "class_order", "dual_coefficients", "invert_heads", "uncentred"]

_ANCHORED = 2  # last rounds of the alternation that place the offset; it is the slow part of a round
_CHUNK = 64  # heads at a time; the float64 result of a head does not depend on its neighbours beyond 1e-13


@dataclass(frozen=True, eq=False)
class Inversion:
    """Features recovered from V heads of N = K·S images each, ordered by class.

    Attributes:
        features: posterior mean [V, N, D], float32: the estimate of least squared error.
        points: [V, N, D], float32: the peak of the likelihood (the posterior mean with the prior's pull taken out).
        whitener: [D, D], float32: |whitener (points - φ)| is the distance whose nearest candidate φ is the most likely
            training image: it weighs every direction by the inversion's own expected error there.
        coefficients: dual coefficients A [V, N, K], float32.
        variance: expected error variance of `features` per eigenvector of the prior's covariance, float32 [D]; like
            the whitener a function of prior, recipe and S, not of the heads.
        noise_std: deviation of W - AᵀX per weight (decayed initial weights, noise of DP-SGD, and the extra noise).
    """

    features: FloatArray
    points: FloatArray
    whitener: FloatArray
    coefficients: FloatArray
    variance: FloatArray
    noise_std: float

    def of(self, rows: AnyArray) -> Inversion:
        """Some of the heads, by their indices."""
        return replace(
            self, features=self.features[rows], points=self.points[rows], coefficients=self.coefficients[rows]
        )


def class_order(classes: int, images_per_class: int) -> Tensor:
    """Labels int64 [N] of a head's training images: S zeros, S ones, and so on."""
    return torch.arange(classes).repeat_interleave(images_per_class)


def dual_coefficients(gram: Tensor, labels: Tensor, first_logits: Tensor, recipe: Recipe) -> tuple[Tensor, float]:
    """Simulate the training in the dual space, under DP-SGD without its noise and with every image at its share.

    Args:
        gram: inner products X·Xᵀ [V, N, N] of the training features.
        labels: int64 [N].
        first_logits: X·W_0ᵀ [V, N, K] of the initial weights (zeros where nothing is known of them).
        recipe: the training recipe.

    Returns:
        A [V, N, K] and s with W = s·W_0 + AᵀX and bias = column sums of A.
    """
    classes = first_logits.shape[-1]
    onehot = torch.nn.functional.one_hot(labels, classes).to(gram)
    gram = gram + 1  # the bias is a weight on a constant feature
    lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    coefficients = torch.zeros_like(first_logits)
    keep, shrink = 1 - recipe.learning_rate * recipe.weight_decay, 1.0
    rate = recipe.learning_rate / gram.shape[1]
    for step in range(recipe.steps):
        logits = torch.baddbmm(first_logits, gram, coefficients, beta=shrink)
        error = loss_errors(logits, onehot.expand_as(logits), recipe.relax, step)
        if recipe.mechanism is not None:
            error = error * clip_factors(error, lengths, recipe.mechanism.clip)
        coefficients = keep * coefficients - rate * error
        shrink *= keep
    return coefficients, shrink


def invert_heads(
    weight: FloatArray,
    bias: FloatArray,
    recipe: Recipe,
    prior: FeaturePrior,
    images_per_class: int,
    iterations: int = 8,
    noise_variance: float = 0.0,
    device: str = "cpu",
    anchored: bool = True,
) -> Inversion:
    """Recover the training features of V heads.

    With S = 1 only the common offset of the images stays out of sight (the columns of A sum to zero over classes), and
    the marginals of the prior recover it; with S > 1 a head shows little more than the sum over the images of each
    class, and the estimates of one class fall together.

    Args:
        weight: [V, K, D], as trained or as estimated.
        bias: [V, K]; only checked: it equals the column sums of A and adds nothing to the weights.
        recipe: how the heads were trained.
        prior: the adversary's prior of features.
        images_per_class: S.
        iterations: rounds of "simulate A, estimate X"; three already come within a per cent of the limit.
        noise_variance: variance of independent errors of the given weights, beyond the initial weights' share; for
            predicted heads `HeadRegressor.error_variance`, which makes whitener and points fit a half-skilled one.
        device: torch device that does the work, in float64.
        anchored: whether to place the common offset by the prior's marginals (where it has any); without, it stays at
            its Gaussian estimate.

    Returns:
        The recovered features with their error model. A head at the mean of all heads gives the class means.

    Raises:
        NumericError: weights that are not finite, or shapes that do not fit the prior.
        ParameterError: images_per_class or iterations below 1, or a negative noise variance.
    """
    _check(weight, bias, prior, images_per_class, iterations, noise_variance)
    mechanism = recipe.mechanism
    prior = prior.seen_from(mechanism)
    solver = _Solver(recipe, prior, images_per_class, noise_variance, device, anchored)
    with limited_threads(1):
        parts = [
            solver.solve(torch.from_numpy(np.ascontiguousarray(weight[i : i + _CHUNK])).to(device).double(), iterations)
            for i in range(0, len(weight), _CHUNK)
        ]
        expected = solver.expected_error().cpu().numpy()
    features, points, coefficients = (torch.cat([part[i] for part in parts]).cpu() for i in range(3))
    share = prior.eigenvalues
    error = np.clip(expected, 1e-9 * share, (1 - 1e-9) * share)
    scale = np.sqrt(1 / error - 1 / share)
    return Inversion(
        features=uncentred(mechanism, features.float().numpy()),
        points=uncentred(mechanism, points.float().numpy()),
        whitener=(scale[:, None] * prior.eigenvectors.T).astype(np.float32),
        coefficients=coefficients.float().numpy(),
        variance=error.astype(np.float32),
        noise_std=float(np.sqrt(solver.noise)),
    )


def uncentred(mechanism: DpMechanism | None, features: FloatArray) -> FloatArray:
    """Plain features [..., D] of those that a private training measures from its centre."""
    if mechanism is None or not mechanism.centre:
        return features
    return features + np.asarray(mechanism.centre, features.dtype)


class _Solver:
    """The alternation for one chunk of heads, in the eigenbasis of the prior's covariance."""

    def __init__(
        self, recipe: Recipe, prior: FeaturePrior, per_class: int, extra: float, device: str, anchored: bool = True
    ) -> None:
        self.recipe, self.classes = recipe, prior.classes
        self.labels = class_order(prior.classes, per_class).to(device)
        self.basis = torch.from_numpy(prior.eigenvectors).to(device)
        self.spread = torch.from_numpy(prior.eigenvalues).to(device)
        self.means = torch.from_numpy(prior.means).to(device)[self.labels] @ self.basis
        self.shrink = recipe.shrink
        extra += recipe.noise_variance(len(self.labels))
        # A floor for recipes that start from zero: float32 weights are rounded.
        start = (self.shrink * recipe.init_std) ** 2
        self.noise = max(start + extra, 1e-16)
        self.start_share = start / self.noise
        self.expected = self._expected_coefficients()
        self.anchor: Anchor | None = None
        if anchored and prior.marginals is not None and len(self.labels) > 1:
            anchor = Anchor(prior, prior.marginals, self.expected, self.noise, per_class)
            self.anchor = anchor if anchor.useful else None
        self.offset_share = None if self.anchor is None else self.anchor.expected_share(self.basis)

    def _expected_coefficients(self) -> Tensor:
        """A [1, N, K] of a head of average images."""
        first = torch.zeros((1, len(self.labels), self.classes), dtype=self.spread.dtype, device=self.spread.device)
        gram = (self.means @ self.means.mT + self.spread.sum() * self._eye())[None]
        return dual_coefficients(gram, self.labels, first, self.recipe)[0]

    def _eye(self) -> Tensor:
        return torch.eye(len(self.labels), dtype=self.spread.dtype, device=self.spread.device)

    def expected_error(self) -> Tensor:
        """Error variance [D] of the posterior mean, averaged over the images, for a head of average images."""
        _, trust, gain = self._estimate(torch.zeros_like(self.means[: self.classes])[None], self.expected)
        return (self.spread * (1 - self._seen(trust, gain, self.expected))).mean(dim=(0, 1))

    def _seen(self, trust: Tensor, gain: Tensor, coefficients: Tensor) -> Tensor:
        """Share [V, N, D] of an image's variance that its head reveals."""
        seen = torch.einsum("vnk,vkd->vnd", gain**2, trust) * self.spread
        if self.offset_share is not None:
            seen = seen + Sight.of(coefficients).unseen.square()[..., None] * self.offset_share
        return seen

    def solve(self, weight: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
        """features, points [V, N, D] and A [V, N, K] of weights [V, K, D]."""
        heads = len(weight)
        turned = torch.bmm(weight, self.basis.expand(heads, -1, -1))
        guess = self.means.expand(heads, -1, -1)
        first = torch.zeros((heads, len(self.labels), self.classes), dtype=weight.dtype, device=weight.device)
        # The expected Gram matrix holds the guess's uncertainty too; without it the simulated steps come out too long.
        doubt = self.spread.sum() * self._eye()
        for round_ in range(iterations):
            coefficients, _ = dual_coefficients(guess @ guess.mT + doubt, self.labels, first, self.recipe)
            moved, trust, gain = self._estimate(turned, coefficients)
            known = gain @ (trust @ self.spread**2).diag_embed() @ gain.mT
            if self.anchor is not None and self.offset_share is not None and round_ >= iterations - _ANCHORED:
                sight = Sight.of(coefficients)
                offset = self.anchor.locate(weight, sight) @ self.basis
                moved = moved + sight.unseen[..., None] * offset[:, None]
                revealed = (self.offset_share * self.spread).sum()
                known = known + revealed * sight.unseen[..., None] * sight.unseen[:, None]
            guess = self.means + moved
            doubt = self.spread.sum() * self._eye() - known
            # What the span does not explain is, in part, the initial weights: they shape the first steps of training.
            rest = (turned - coefficients.mT @ guess) * (self.start_share / self.shrink)
            first = guess @ rest.mT
        # The share of a direction's variance that the head reveals is `seen`; dividing by it undoes the prior's pull.
        points = self.means + moved / self._seen(trust, gain, coefficients).clamp_min(1e-6)
        back = self.basis.T.expand(heads, -1, -1)
        return torch.bmm(guess, back), torch.bmm(points, back), coefficients

    def _estimate(self, turned: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean of X less class means [V, N, D]; 1/(λg + noise) [V, K, D]; A in AᵀA's eigenbasis [V, N, K]."""
        strength, vectors = torch.linalg.eigh(coefficients.mT @ coefficients)
        gain = coefficients @ vectors
        trust = 1 / (self.spread * strength.clamp_min(0)[..., None] + self.noise)
        surprise = vectors.mT @ (turned - coefficients.mT @ self.means)
        return (gain @ (surprise * trust)) * self.spread, trust, gain


def _check(
    weight: FloatArray, bias: FloatArray, prior: FeaturePrior, per_class: int, iterations: int, extra: float
) -> None:
    expected = (prior.classes, prior.width)
    if weight.ndim != 3 or weight.shape[1:] != expected or bias.shape != weight.shape[:2] or len(weight) == 0:
        raise NumericError(
            f"span inversion takes weights [V, {expected[0]}, {expected[1]}] and biases [V, {expected[0]}], "
            f"got {weight.shape} and {bias.shape}"
        )
    for name, array in (("weight", weight), ("bias", bias)):
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if bad.any():
            raise NumericError(f"span inversion: the {name} of head {int(bad.argmax())} holds NaN or infinity")
    if per_class < 1 or iterations < 1:
        raise ParameterError(f"images_per_class = {per_class} and iterations = {iterations} must be at least 1")
    if not (np.isfinite(extra) and extra >= 0):
        raise ParameterError(f"noise_variance = {extra} is not allowed: finite and at least 0")
