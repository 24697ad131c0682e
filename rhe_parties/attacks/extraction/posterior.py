"""A head's posterior from class decisions: expectation propagation on "the winner beats each other class".

Each answer c to features φ says (w_c - w_j)·φ + b_c - b_j > 0 for every j ≠ c. With a Gaussian prior these half-spaces
are what expectation propagation (Minka 2001, arXiv 1301.2294; the Bayes point machine) is made for: every inequality
becomes a Gaussian factor on one number, all of them are updated at once, and mean and covariance follow from one
Cholesky factor. Inequalities that hold by several deviations are left out until they matter.

An inequality touches two classes and one feature vector, so products with it cost (r+1)² instead of ((K-1)(r+1))²: all
sums run over the K(K-1)/2 pairs of classes.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.extraction.gauge import Float64Array, contrasts
from rhe_parties.attacks.extraction.prior import HeadPrior
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.types import IntArray

__all__ = ["DecisionPosterior"]

_CERTAIN = 5.0  # deviations at which an inequality says nothing any more
_DAMPING = 0.8
_LENGTH_ERROR = 1e-3


class DecisionPosterior:
    """Mean and covariance of a head given all answers so far.

    Attributes:
        mean: float64 [(K-1)·(r+1)].
        covariance: float64 of the same.
    """

    def __init__(self, prior: HeadPrior, noise: float) -> None:
        """Start from the prior; `noise` is the deviation of a logit difference at the key holder (its rounding).

        Raises:
            ParameterError: a noise that is negative or not finite.
        """
        if not (np.isfinite(noise) and noise >= 0):
            raise ParameterError(f"noise = {noise} is not allowed: finite and at least 0")
        self.prior, self._noise = prior, max(noise, 1e-7)
        classes, width = prior.classes, prior.axes.rank + 1
        self.length = prior.lengths.typical
        self._shape = (classes - 1, width)
        self._pairs = list(itertools.combinations(range(classes), 2))
        table = torch.from_numpy(contrasts(classes))
        self._table = table
        # Outer products of e_i - e_j in contrasts: what turns a sum over rows of one pair into blocks of the whole.
        ends = torch.tensor(self._pairs)
        steps = table[ends[:, 0]] - table[ends[:, 1]]
        self._blocks = (steps[:, :, None] * steps[:, None, :]).reshape(len(steps), -1)
        place = torch.zeros((classes, classes), dtype=torch.int64)
        for index, (i, j) in enumerate(self._pairs):
            place[i, j] = place[j, i] = index
        self._place = place
        covariance = torch.from_numpy(prior.covariance)
        self._precision = _inverse(covariance)
        self._shift = self._precision @ torch.from_numpy(prior.mean)
        self.mean, self.covariance = torch.from_numpy(prior.mean).clone(), covariance
        self._rows = torch.empty((0, width), dtype=torch.float64)
        self._labels = torch.empty(0, dtype=torch.int64)
        self._blur = torch.empty(0, dtype=torch.float64)
        self._tau, self._nu, self._variance = (torch.empty((0, classes), dtype=torch.float64) for _ in range(3))

    @property
    def answers(self) -> int:
        """Answers taken in so far."""
        return len(self._labels)

    def add(self, coordinates: Float64Array, rest: Float64Array, labels: IntArray) -> None:
        """Take in answers `labels` [n] to feature coordinates [n, r+1] with squared lengths `rest` outside the axes.

        Raises:
            NumericError: arrays that do not fit together, or classes out of range.
        """
        if coordinates.ndim != 2 or coordinates.shape[1] != self._shape[1] or len(labels) != len(coordinates):
            raise NumericError(f"{len(labels)} answers do not fit feature coordinates of shape {coordinates.shape}")
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.prior.classes):
            raise NumericError(
                f"answers must be classes 0..{self.prior.classes - 1}, got {labels.min()}..{labels.max()}"
            )
        count, classes = len(labels), self.prior.classes
        empty = torch.zeros((count, classes), dtype=torch.float64)
        blur = self._noise**2 + 2 * self.prior.outside_variance * torch.from_numpy(rest)
        self._rows = torch.cat([self._rows, torch.from_numpy(coordinates)])
        self._labels = torch.cat([self._labels, torch.from_numpy(labels.astype(np.int64))])
        self._blur = torch.cat([self._blur, blur])
        self._tau, self._nu = torch.cat([self._tau, empty]), torch.cat([self._nu, empty])
        self._variance = torch.cat([self._variance, torch.full_like(empty, np.inf)])

    def update(self, sweeps: int, tolerance: float = 0.01) -> int:
        """Rounds of expectation propagation until the mean moves by less than `tolerance` deviations; rounds done.

        Raises:
            NumericError: the covariance lost its positive definiteness (answers that contradict each other badly).
        """
        for done in range(sweeps):
            query, rival = self._active()
            self._sites(query, rival)
            before = self.mean
            self._solve(query, rival)
            moved = (self.mean - before).square() / self.covariance.diagonal()
            if float(moved.mean()) < tolerance**2:
                return done + 1
        return sweeps

    def logits(self, coordinates: Float64Array) -> Float64Array:
        """Centred logits [n, K] of the mean head."""
        return self._logits(torch.from_numpy(coordinates)).numpy()

    def deviation(self, coordinates: Float64Array, first: IntArray, second: IntArray) -> Float64Array:
        """Deviation [n] of logit `first` less logit `second` at feature coordinates [n, r+1]."""
        pair = self._place[torch.from_numpy(first), torch.from_numpy(second)]
        return self._variances(torch.from_numpy(coordinates), pair).sqrt().numpy()

    def weight_variance(self) -> Float64Array:
        """Posterior variance [r] of one centred weight along each axis, averaged over the classes."""
        diagonal = self.covariance.diagonal().reshape(self._shape)[:, :-1]
        return (diagonal.sum(0) / self.prior.classes).numpy()

    def _logits(self, rows: Tensor) -> Tensor:
        return rows @ self.mean.reshape(self._shape).T @ self._table.T

    def _active(self) -> tuple[Tensor, Tensor]:
        """(query, rival) of the inequalities that are not yet certain by the last known variances."""
        logits = self._logits(self._rows)
        margin = logits.gather(1, self._labels[:, None]) - logits
        open_ = margin < _CERTAIN * (self._variance + self._blur[:, None]).sqrt()
        open_[torch.arange(len(open_)), self._labels] = False
        self._tau[~open_] = 0
        self._nu[~open_] = 0
        query, rival = open_.nonzero(as_tuple=True)
        return query, rival

    def _sites(self, query: Tensor, rival: Tensor) -> None:
        """New factors of the given inequalities from their marginals without themselves."""
        labels = self._labels[query]
        rows = self._rows[query]
        variance = self._variances(rows, self._place[labels, rival]).clamp_min(1e-300)
        self._variance[query, rival] = variance
        logits = self._logits(self._rows)
        mean = logits[query, labels] - logits[query, rival]
        tau, nu = self._tau[query, rival], self._nu[query, rival]
        own = 1 / (1 / variance - tau).clamp_min(1e-12 / variance)
        centre = own * (mean / variance - nu)
        total = own + self._blur[query]
        z = centre / total.sqrt()
        # φ(z)/Φ(z) without underflow: erfcx carries the tail.
        ratio = np.sqrt(2 / np.pi) / torch.special.erfcx(-z / np.sqrt(2))
        alpha = ratio / total.sqrt()
        beta = alpha * (alpha + centre / total)
        room = (1 - beta * own).clamp_min(1e-9)
        self._tau[query, rival] = tau + _DAMPING * ((beta / room).clamp_min(0) - tau)
        self._nu[query, rival] = nu + _DAMPING * ((alpha + beta * centre) / room - nu)

    def _solve(self, query: Tensor, rival: Tensor) -> None:
        """Mean and covariance from the prior and all factors."""
        rows, width = self._rows, self._shape[1]
        labels = self._labels[query]
        pair = self._place[labels, rival]
        tau, nu = self._tau[query, rival], self._nu[query, rival]
        grams = torch.zeros((len(self._pairs), width * width), dtype=torch.float64)
        for index in range(len(self._pairs)):
            here = (pair == index).nonzero()[:, 0]
            if len(here) == 0:
                continue
            x = rows[query[here]]
            grams[index] = (x.T @ (x * tau[here, None])).reshape(-1)
        size = self._shape[0]
        blocks = (self._blocks.T @ grams).reshape(size, size, width, width)
        precision = self._precision + blocks.permute(0, 2, 1, 3).reshape(size * width, size * width)
        pull = torch.zeros((len(rows), self.prior.classes), dtype=torch.float64)
        pull.index_put_((query, labels), nu, accumulate=True)
        pull.index_put_((query, rival), -nu, accumulate=True)
        shift = self._shift + (self._table.T @ (pull.T @ rows)).reshape(-1)
        pole = self._pole()
        weight = 1 / (_LENGTH_ERROR * self.length) ** 2
        precision.addr_(pole, pole, alpha=weight)
        shift.add_(pole, alpha=weight * self.length)
        self.covariance = _inverse(precision)
        self.mean = self.covariance @ shift

    def _pole(self) -> Tensor:
        """The direction along which the mean grows in length: pole·mean is its length."""
        metric = torch.from_numpy(self.prior.lengths.metric)
        scaled = self.mean * metric
        pole: Tensor = scaled * metric / torch.linalg.vector_norm(scaled).clamp_min(1e-300)
        return pole

    def _variances(self, rows: Tensor, pair: Tensor) -> Tensor:
        """Variance [n] of the logit difference of each row's pair of classes."""
        size, width = self._shape
        blocks = self.covariance.reshape(size, width, size, width).permute(0, 2, 1, 3).reshape(size * size, -1)
        tables = (self._blocks @ blocks).reshape(-1, width, width)
        out = torch.empty(len(rows), dtype=torch.float64)
        for index in range(len(self._pairs)):
            here = (pair == index).nonzero()[:, 0]
            if len(here) == 0:
                continue
            x = rows[here]
            out[here] = ((x @ tables[index]) * x).sum(1)
        return out


def _inverse(matrix: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0:
        raise NumericError("head extraction: the covariance of the head is not positive definite")
    return torch.cholesky_inverse(factor)
