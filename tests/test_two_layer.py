"""Small heads in batches against one ordinary torch training per head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rhe_parties.attacks.pools import SerialPool, ThreadPool
from rhe_parties.attacks.shadows.two_layer_factory import TwoLayerFactory
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.two_layer import BatchRecipe, parameter_count, split_parameters, train_batch
from rhe_parties.rng import numpy_stream
from rhe_parties.types import FloatArray, IntArray

D, N, POOL = 20, 10, 60


def pool(classes: int = 2) -> tuple[FloatArray, IntArray]:
    rng = numpy_stream(1, "small-pool")
    features = np.maximum(rng.normal(size=(POOL, D)), 0).astype(np.float32) * 3
    return features, (np.arange(POOL) % classes).astype(np.int64)


def torch_training(
    x: FloatArray, y: IntArray, classes: int, start: FloatArray, recipe: BatchRecipe
) -> np.ndarray[Any, Any]:
    """One head the ordinary way: nn.Sequential, autograd, torch.optim; flat parameters in their own order."""

    class Square(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values**2

    outputs = 1 if recipe.loss == "binary" else classes
    bend = torch.nn.ReLU() if recipe.activation == "relu" else Square()
    layers: list[torch.nn.Module] = [torch.nn.Linear(recipe.hidden or D, outputs)]
    if recipe.hidden:
        layers = [torch.nn.Linear(D, recipe.hidden), bend, *layers]
    model = torch.nn.Sequential(*layers).double()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(start).double(), model.parameters())
    make = torch.optim.SGD if recipe.optimiser == "sgd" else torch.optim.Adam
    optimiser = make(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    if recipe.loss == "binary":
        loss: Any = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([recipe.positive_weight]).double())
        target = torch.from_numpy(y)[:, None].double()
    else:
        loss, target = torch.nn.CrossEntropyLoss(), torch.from_numpy(y)
    for _ in range(recipe.epochs):
        optimiser.zero_grad()
        loss(model(torch.from_numpy(x).double()), target).backward()
        optimiser.step()
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy()


RECIPES = [
    BatchRecipe.paper("strokenet", 1),
    BatchRecipe(0.05, 1e-2, 0.3, 20),
    BatchRecipe(0.05, 1e-2, 0.3, 20, positive_weight=10.0),
    BatchRecipe(0.005, 1e-2, 0.2, 20, activation="square"),
    BatchRecipe(0.05, 1e-2, 0.3, 20, hidden=4, loss="classes"),
    BatchRecipe(0.005, 1e-2, 0.2, 20, activation="square", loss="classes"),
    BatchRecipe(0.05, 1e-2, 0.3, 20, hidden=0, loss="classes"),
    BatchRecipe(0.05, 1e-2, 0.3, 20, hidden=0),
]


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.activation}-{r.loss}-{r.hidden}-{r.positive_weight}")
def test_a_batch_is_ordinary_training_head_by_head(recipe: BatchRecipe, optimiser: str) -> None:
    recipe = replace(recipe, optimiser=optimiser)
    if optimiser == "adam":
        recipe = replace(recipe, learning_rate=0.01)
    classes = 2 if recipe.loss == "binary" else 3
    features, labels = pool(classes)
    sets = numpy_stream(2, "sets").integers(0, POOL, (7, N))
    start = numpy_stream(3, "start").normal(size=(7, parameter_count(recipe, D, classes))).astype(np.float32) * 0.2
    trained = train_batch(features, labels, sets, classes, recipe, 0, initial=start)
    for head in range(7):
        alone = torch_training(features[sets[head]], labels[sets[head]], classes, start[head], recipe)
        np.testing.assert_allclose(trained[head], alone, atol=1e-5)
    assert np.abs(trained - start).max() > 0.01


def test_heads_start_random_and_biases_at_zero() -> None:
    features, labels = pool()
    recipe = BatchRecipe(1e-12, 0.0, 0.25, 1, hidden=6)
    sets = np.tile(np.arange(N), (400, 1))
    flat = train_batch(features, labels, sets, 2, recipe, 5)
    first, first_bias, second, second_bias = split_parameters(flat, recipe, D, 2)
    assert max(np.abs(first_bias).max(), np.abs(second_bias).max()) < 1e-9
    for weight in (first, second):
        assert weight.std() == pytest.approx(0.25, rel=0.05)
        assert weight.mean() == pytest.approx(0.0, abs=0.02)
    fewer = train_batch(features, labels, sets[:3], 2, recipe, 5)
    np.testing.assert_array_equal(fewer[:, : 6 * D], flat[:3, : 6 * D])
    assert (train_batch(features, labels, sets[:3], 2, recipe, 6) != fewer).any()


def test_a_class_may_be_absent() -> None:
    features, labels = pool()
    ones = np.flatnonzero(labels == 1)[None, :N]
    recipe = BatchRecipe.paper("strokenet", 1)
    assert np.isfinite(train_batch(features, labels, ones, 2, recipe, 1)).all()


def test_the_stream_is_the_same_for_any_pool() -> None:
    features, labels = pool(4)
    factory = TwoLayerFactory(
        features, labels, 4, 1, BatchRecipe.paper("strokenet", 1), 3, block=16, targets=labels % 2
    )
    serial = factory.take(50, SerialPool())
    threads = factory.take(50, ThreadPool(2))
    assert serial.parameters.shape == (50, parameter_count(factory.recipe, D, 2))
    assert (labels[serial.sets] == np.arange(4)).all()
    for one, other in zip(serial, threads, strict=True):
        np.testing.assert_array_equal(one, other)
    assert factory.provenance()["sets"] == "balanced:1"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"activation": "tanh"}, "tanh"),
        ({"loss": "hinge"}, "hinge"),
        ({"optimiser": "lbfgs"}, "lbfgs"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
        ({"hidden": -1}, "hidden = -1"),
        ({"epochs": 0}, "epochs = 0"),
        ({"positive_weight": 0.0}, "positive_weight = 0.0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        replace(BatchRecipe.paper("strokenet", 1), **given)


def test_bad_input_is_named() -> None:
    features, labels = pool()
    sets, recipe = np.tile(np.arange(N), (2, 1)), BatchRecipe.paper("strokenet", 1)
    with pytest.raises(ParameterError, match="images_per_class = 0"):
        BatchRecipe.paper("strokenet", 0)
    with pytest.raises(ParameterError, match="classes = 3"):
        train_batch(features, labels, sets, 3, recipe, 1)
    with pytest.raises(NumericError, match="NaN"):
        train_batch(np.full_like(features, np.nan), labels, sets, 2, recipe, 1)
    with pytest.raises(NumericError, match="diverged"):
        train_batch(features, labels, sets, 2, replace(recipe, learning_rate=1e20), 1)
    with pytest.raises(NumericError, match="diverged"):
        train_batch(features, labels, sets, 2, replace(recipe, learning_rate=1e3, activation="square"), 1)
    with pytest.raises(NumericError, match="initial parameters"):
        train_batch(features, labels, sets, 2, recipe, 1, initial=np.zeros((2, 3), np.float32))
    with pytest.raises(NumericError, match="parameters"):
        split_parameters(np.zeros((2, 3), np.float32), recipe, D, 2)
    with pytest.raises(DataError, match="zero images"):
        train_batch(features, labels, sets[:, :0], 2, recipe, 1)
    with pytest.raises(DataError, match="label 5"):
        TwoLayerFactory(features, labels, 2, 1, recipe, 1, targets=labels + 4)
    with pytest.raises(ParameterError, match="block = 0"):
        TwoLayerFactory(features, labels, 2, 1, recipe, 1, block=0)
    with pytest.raises(NumericError, match="NaN"):
        TwoLayerFactory(np.full_like(features, np.nan), labels, 2, 1, recipe, 1)
