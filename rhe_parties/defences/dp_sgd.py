"""DP-SGD: the head is differentially private in its training images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rhe_parties.defences.base import AnyRecipe, Defence, Fact, PublicData
from rhe_parties.errors import ParameterError
from rhe_parties.types import FloatArray, IntArray

if TYPE_CHECKING:
    from rhe_parties.model.dp import DpMechanism
    from rhe_parties.model.head import LinearHead, Recipe

__all__ = ["DpSgd"]


class DpSgd(Defence):
    """Clips each example's gradient and adds Gaussian noise, with Opacus' PrivacyEngine; the head stays in the clear.

    What is not given of clipping norm, learning rate, steps and sampling is tuned on public images, at the noise that ε
    then asks for. The guarantee is add/remove adjacency by the PRV accountant, with Poisson sampling.
    """

    name = "dp-sgd"
    summary = "heads are trained with clipped gradients and noise (differential privacy); weights in the clear"
    source = "Abadi et al. 2016, arXiv 1607.00133; Opacus, arXiv 2109.12298"
    two_layers = False

    @dataclass(frozen=True)
    class Options:
        """The guarantee and, where they are not to be tuned (0), the parameters.

        Attributes:
            epsilon: ε, above 0.
            delta: δ below 1; 0: N^-1.1 for N training images, as in arXiv 2505.14323.
            clip: largest norm of an example's gradient.
            learning_rate: of the steps.
            steps: number of noisy steps.
            sampling_rate: q, of which 1/q must be a whole number.
            centred: whether features are measured from their public mean.
        """

        epsilon: float = 8.0
        delta: float = 0.0
        clip: float = 0.0
        learning_rate: float = 0.0
        steps: int = 0
        sampling_rate: float = 0.0
        centred: bool = True

        def __post_init__(self) -> None:
            for name, allowed, words in (
                ("epsilon", self.epsilon > 0, "above 0"),
                ("delta", 0 <= self.delta < 1, "below 1; 0 for N^-1.1"),
                ("clip", self.clip >= 0, "above 0; 0 tunes it"),
                ("learning_rate", self.learning_rate >= 0, "above 0; 0 tunes it"),
                ("steps", self.steps >= 0, "at least 1; 0 tunes them"),
                ("sampling_rate", 0 <= self.sampling_rate <= 1, "at most 1; 0 tunes it"),
            ):
                value = getattr(self, name)
                if not (allowed and np.isfinite(value)):
                    raise ParameterError(f"dp-sgd: {name}={value} is not allowed (allowed: {words})")
            if self.sampling_rate and abs(1 / self.sampling_rate - round(1 / self.sampling_rate)) > 1e-9:
                raise ParameterError(
                    f"dp-sgd: sampling_rate={self.sampling_rate} is not allowed (allowed: 1, 1/2, 1/3 and so on)"
                )

    def recipe(self, plain: AnyRecipe, public: PublicData) -> AnyRecipe:
        """See `Defence.recipe`: the tuned one."""
        from rhe_parties.model.dp_tuning import DpBudget, tune
        from rhe_parties.model.head import Recipe

        if not isinstance(plain, Recipe) or plain.relax:
            raise ParameterError("dp-sgd trains linear heads with the usual loss (allowed: hidden=0, no relaxloss)")
        o = self.options
        names = ("clip", "learning_rate", "steps", "sampling_rate")
        fixed = {name: float(getattr(o, name)) for name in names if getattr(o, name)}
        budget = DpBudget(o.epsilon, self._delta(public.set_size))
        return tune(
            public.features, public.labels, public.classes, public.images_per_class, plain, budget, fixed,
            o.centred, public.seed,
        ).recipe  # fmt: skip

    def _delta(self, images: int) -> float:
        from rhe_parties.model.dp_tuning import usual_delta

        return float(self.options.delta) or usual_delta(images)

    def epsilon(self, recipe: AnyRecipe, images: int) -> float:
        """See `Defence.epsilon`."""
        from rhe_parties.model.dp import epsilon

        mechanism = _mechanism(recipe)
        return epsilon(mechanism, mechanism.steps_of(recipe.epochs), self._delta(images))

    def facts(self, recipe: AnyRecipe, images: int) -> list[Fact]:
        """See `Defence.facts`."""
        mechanism = _mechanism(recipe)
        delta = self._delta(images)
        return [
            ("epsilon", f"{self.epsilon(recipe, images):.3g}"),
            ("delta", f"{delta:.3g}" + ("" if delta < 0.1 / images else f", weak: 1/N is {1 / images:.3g}")),
            ("sampling rate", f"{mechanism.sampling_rate:g}"),
            ("steps", f"{mechanism.steps_of(recipe.epochs)}"),
            ("noise multiplier", f"{mechanism.noise_multiplier:.3g}"),
            ("clipping norm", f"{mechanism.clip:.3g}"),
            ("learning rate", f"{recipe.learning_rate:.3g}"),
            ("centred features", "yes" if mechanism.centre else "no"),
            ("accountant", "PRV, add/remove"),
        ]

    def train(self, features: FloatArray, labels: IntArray, classes: int, recipe: Recipe, seed: int) -> LinearHead:
        """See `Defence.train`; by Opacus' PrivacyEngine on one linear layer."""
        from rhe_parties.model.head import LinearHead, check_training_sets, initial_weights

        check_training_sets(features[None], labels[None], classes, 1)
        start = initial_weights([seed], classes, features.shape[1], recipe.init_std)[0]
        mechanism = _mechanism(recipe)
        weight, bias = _private_layer(mechanism.centred(features), labels, start, recipe, mechanism, seed)
        return LinearHead(weight, mechanism.bias(weight, bias))


def _mechanism(recipe: AnyRecipe) -> DpMechanism:
    mechanism: DpMechanism | None = getattr(recipe, "mechanism", None)
    if mechanism is None:
        raise ParameterError("dp-sgd: the recipe holds no mechanism; it is made by DpSgd.recipe")
    return mechanism


def _private_layer(
    features: FloatArray, labels: IntArray, start: FloatArray, recipe: Recipe, mechanism: DpMechanism, seed: int
) -> tuple[FloatArray, FloatArray]:
    import torch
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    from rhe_parties.rng import torch_stream

    layer = torch.nn.Linear(features.shape[1], len(start))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start))
        layer.bias.zero_()
    optimiser = torch.optim.SGD(layer.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    data = TensorDataset(torch.from_numpy(features), torch.from_numpy(labels))
    loader: Any = DataLoader(
        data,
        batch_size=-(-len(labels) // round(1 / mechanism.sampling_rate)),
        generator=torch_stream(seed, "dp-batches"),
    )
    with warnings.catch_warnings():
        # Opacus warns of generators that are no cryptographic ones: a simulation must be repeatable.
        warnings.simplefilter("ignore")
        private, noisy, batches = PrivacyEngine().make_private(
            module=layer, optimizer=optimiser, data_loader=loader, noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.clip, noise_generator=torch_stream(seed, "dp-noise"), poisson_sampling=True,
        )  # fmt: skip
        # Opacus rounds the expected size of a batch down to a whole number.
        noisy.expected_batch_size = mechanism.sampling_rate * len(labels)
        left = recipe.steps
        while left:
            for x, y in batches:
                noisy.zero_grad()
                loss: Any = torch.nn.functional.cross_entropy(private(x), y)
                loss.backward()
                noisy.step()
                left -= 1
                if not left:
                    break
    return layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
