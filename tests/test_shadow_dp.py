"""DP-SGD in the dual space against Opacus itself: the same distribution of final parameters, and tests of the test."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from rhe_parties.errors import ParameterError
from rhe_parties.model.dp import DpMechanism, epsilon
from rhe_parties.model.dual import train_many
from rhe_parties.model.head import Recipe
from rhe_parties.rng import numpy_stream, torch_stream
from rhe_parties.types import FloatArray, IntArray

D, N, K, STEPS = 12, 8, 4, 4
P = K * (D + 1)
RUNS = 400
LEVEL = 1e-3  # of each test; all seeds are fixed, so a test that passes once passes always
RECIPE = Recipe(0.3, 0.05, 0.05, STEPS)


def problem() -> tuple[FloatArray, IntArray]:
    rng = numpy_stream(4, "dp-problem")
    features = rng.normal(size=(N, D)).astype(np.float32)
    features[0] *= 5  # one gradient is surely clipped, another surely not
    features[1] *= 0.05
    return features, np.repeat(np.arange(K), 2).astype(np.int64)


def opacus_parameters(mechanism: DpMechanism, recipe: Recipe) -> np.ndarray[Any, Any]:
    """Final parameters [RUNS, K·D + K] of Opacus' PrivacyEngine on an ordinary layer with an ordinary optimiser."""
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    features, labels = problem()
    model = torch.nn.Linear(D, K)
    optimiser = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    dataset = TensorDataset(torch.from_numpy(features), torch.from_numpy(labels))
    loader: Any = DataLoader(
        dataset, batch_size=round(N * mechanism.sampling_rate), generator=torch_stream(1, "opacus-batches")
    )
    private, noisy, batches = PrivacyEngine().make_private(
        module=model, optimizer=optimiser, data_loader=loader, noise_multiplier=mechanism.noise_multiplier,
        max_grad_norm=mechanism.clip, noise_generator=torch_stream(2, "opacus-noise"), poisson_sampling=True,
    )  # fmt: skip
    start, rows = torch_stream(3, "opacus-start"), []
    for _ in range(RUNS):
        with torch.no_grad():
            model.weight.copy_(torch.randn((K, D), generator=start) * recipe.init_std)
            model.bias.zero_()
        for x, y in _steps(batches):
            noisy.zero_grad()
            torch.nn.functional.cross_entropy(private(x), y).backward()
            noisy.step()
        rows.append(torch.cat([model.weight.detach().flatten(), model.bias.detach()]).double().numpy())
    return np.stack(rows)


def _steps(batches: Any) -> Iterator[Any]:
    made = 0
    while made < STEPS:
        for batch in batches:
            yield batch
            made += 1
            if made == STEPS:
                return


def our_parameters(mechanism: DpMechanism, recipe: Recipe, runs: int, seed: int) -> np.ndarray[Any, Any]:
    features, labels = problem()
    weight, bias = train_many(
        features, labels, np.tile(np.arange(N), (runs, 1)), K, replace(recipe, mechanism=mechanism), seed
    )
    return np.concatenate([weight.reshape(runs, -1), bias], axis=1).astype(np.float64)


class Comparison:
    """Our distribution under a mechanism; samples of another one are compared with it, each way with a p-value."""

    def __init__(self, mechanism: DpMechanism, recipe: Recipe) -> None:
        ours = our_parameters(mechanism, recipe, 30_000, 5)
        self.mean = ours.mean(0)
        self.whiten = np.linalg.inv(np.linalg.cholesky(np.cov(ours.T))).T
        self.fresh = self.whitened(our_parameters(mechanism, recipe, 30_000, 6))

    def whitened(self, parameters: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (parameters - self.mean) @ self.whiten

    def spread(self, theirs: np.ndarray[Any, Any]) -> float:
        """Of squared Mahalanobis distances: Welch's test."""
        lengths = [(self.whitened(theirs) ** 2).sum(1), (self.fresh**2).sum(1)]
        return float(stats.ttest_ind(*lengths, equal_var=False).pvalue)

    def means(self, theirs: np.ndarray[Any, Any]) -> float:
        white = self.whitened(theirs)
        return float(stats.chi2.sf(len(white) * (white.mean(0) ** 2).sum() / (1 + len(white) / 30_000), P))

    def covariances(self, theirs: np.ndarray[Any, Any]) -> float:
        """The largest of all pairs, Bonferroni."""
        white, squares = self.whitened(theirs), self.fresh**2
        deviations = np.abs(white.T @ white) / np.sqrt(len(white) * (squares.T @ squares) / len(squares))
        pairs = np.triu_indices(P, 1)
        return float(min(1.0, 2 * stats.norm.sf(deviations[pairs].max()) * len(pairs[0])))

    def shapes(self, theirs: np.ndarray[Any, Any]) -> float:
        """Kolmogorov and Smirnov's test of every coordinate, Bonferroni."""
        white = self.whitened(theirs)
        return float(min(1.0, P * min(stats.ks_2samp(white[:, i], self.fresh[:, i]).pvalue for i in range(P))))


@pytest.fixture(scope="module", params=[1.0, 0.5], ids=["all", "half"])
def opacus_runs(request: pytest.FixtureRequest) -> tuple[DpMechanism, np.ndarray[Any, Any]]:
    mechanism = DpMechanism(clip=1.5, noise_multiplier=0.8, sampling_rate=request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mechanism, opacus_parameters(mechanism, RECIPE)


def test_final_parameters_have_the_distribution_of_opacus(
    opacus_runs: tuple[DpMechanism, np.ndarray[Any, Any]],
) -> None:
    mechanism, theirs = opacus_runs
    ours = Comparison(mechanism, RECIPE)
    found = [ours.spread(theirs), ours.means(theirs), ours.covariances(theirs), ours.shapes(theirs)]
    assert min(found) > LEVEL, found


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_multiplier": 0.8 * 1.03},
        {"noise_multiplier": 0.8 * 1.05},
        {"noise_multiplier": 0.8 / 1.05},
        {"clip": 1.5 * 1.1},
        {"steps": STEPS + 1},
    ],
    ids=str,
)
def test_the_comparison_sees_a_wrong_mechanism(
    opacus_runs: tuple[DpMechanism, np.ndarray[Any, Any]], wrong: dict[str, Any]
) -> None:
    mechanism, theirs = opacus_runs
    assert Comparison(replace(mechanism, **wrong), RECIPE).spread(theirs) < LEVEL


def test_without_noise_and_clipping_it_is_ordinary_training() -> None:
    features, labels = problem()
    quiet = DpMechanism(clip=1e6, noise_multiplier=0.0)
    start = numpy_stream(1, "start").normal(size=(5, K, D)).astype(np.float32)
    sets = np.tile(np.arange(N), (5, 1))
    plain = train_many(features, labels, sets, K, RECIPE, 3, initial=start)
    private = train_many(features, labels, sets, K, replace(RECIPE, mechanism=quiet), 3, start)
    for one, other in zip(plain, private, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(
        *(train_many(features, labels, sets, K, replace(RECIPE, mechanism=m), 3)[0] for m in (None, quiet)), atol=1e-5
    )


def test_known_initial_weights_give_the_distribution_of_random_ones() -> None:
    """Weights that are drawn outside and handed in leave the same distribution as weights drawn inside."""
    mechanism, (features, labels) = DpMechanism(1.5, 0.8), problem()
    start = numpy_stream(8, "start").normal(size=(4000, K, D)).astype(np.float32) * RECIPE.init_std
    sets = np.tile(np.arange(N), (4000, 1))
    weight, bias = train_many(features, labels, sets, K, replace(RECIPE, mechanism=mechanism), 9, start)
    given = np.concatenate([weight.reshape(4000, -1), bias], axis=1).astype(np.float64)
    ours = Comparison(mechanism, RECIPE)
    assert min(ours.spread(given), ours.means(given), ours.covariances(given), ours.shapes(given)) > LEVEL


def test_images_that_span_no_space_of_their_own_do_no_harm() -> None:
    """An image twice in a set, and more images than dimensions: the Gram matrix has no inverse."""
    features, labels = problem()
    twice = np.tile([0, 0, 3, 5], (2000, 1))
    more = np.tile(np.arange(N), (2000, 1))
    mechanism = DpMechanism(1.5, 0.8)
    for sets, pool in ((twice, features), (more, features[:, :3].copy())):
        weight, bias = train_many(pool, labels, sets, K, replace(RECIPE, mechanism=mechanism), 1)
        # The reference: the same algorithm written out on the weights.
        straight = _straight(pool[sets[0]], labels[sets[0]], mechanism, 2000)
        for mine, theirs in ((weight, straight[:, :, :-1]), (bias, straight[:, :, -1])):
            mine, theirs = mine.reshape(2000, -1), theirs.reshape(2000, -1)
            worst = min(stats.ks_2samp(mine[:, i], theirs[:, i]).pvalue for i in range(mine.shape[1]))
            assert worst * mine.shape[1] > LEVEL
            np.testing.assert_allclose(np.cov(mine.T), np.cov(theirs.T), atol=0.15 * np.var(theirs, axis=0).max())


def _straight(x: FloatArray, labels: IntArray, mechanism: DpMechanism, runs: int) -> np.ndarray[Any, Any]:
    """DP-SGD on weights and bias side by side, [runs, K, D+1], in NumPy."""
    rng = numpy_stream(7, "straight")
    extended = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    theta = rng.normal(size=(runs, K, extended.shape[1])) * RECIPE.init_std
    theta[:, :, -1] = 0
    for _ in range(STEPS):
        logits = np.einsum("nd,vkd->vnk", extended, theta)
        error = np.exp(logits - logits.max(-1, keepdims=True))
        error = error / error.sum(-1, keepdims=True) - np.eye(K)[labels]
        norm = np.linalg.norm(error, axis=-1) * np.linalg.norm(extended, axis=-1)
        error *= np.minimum(1, mechanism.clip / norm)[..., None]
        noise = rng.normal(size=theta.shape) * mechanism.clip * mechanism.noise_multiplier
        gradient = (np.einsum("vnk,nd->vkd", error, extended) + noise) / len(x)
        theta = theta - RECIPE.learning_rate * (gradient + RECIPE.weight_decay * theta)
    return theta


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"clip": 0.0}, "clip = 0.0"),
        ({"clip": float("nan")}, "clip = nan"),
        ({"noise_multiplier": -1.0}, "noise_multiplier = -1.0"),
        ({"noise_multiplier": float("inf")}, "noise_multiplier = inf"),
        ({"sampling_rate": 0.0}, "sampling_rate = 0.0"),
        ({"sampling_rate": 1.5}, "sampling_rate = 1.5"),
        ({"steps": 0}, "steps = 0"),
    ],
)
def test_a_mechanism_that_cannot_be_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        DpMechanism(**({"clip": 1.0, "noise_multiplier": 1.0} | given))


def test_epsilon_is_that_of_the_papers_table() -> None:
    """The authors' README, as corrected: MNIST, N=10, σ=1.82 gives 5, with q=1/2 and twice the epochs."""
    assert epsilon(DpMechanism(4.0, 1.82, 0.5, 64), 32, 10**-1.1) == pytest.approx(5.04, abs=0.02)
    assert epsilon(DpMechanism(4.0, 1.82), 32, 10**-1.1) == pytest.approx(8.41, abs=0.05)
    assert epsilon(DpMechanism(4.0, 0.0), 32, 0.01) == float("inf")
    with pytest.raises(ParameterError, match=r"delta = 1\.0"):
        epsilon(DpMechanism(4.0, 1.0), 32, 1.0)
