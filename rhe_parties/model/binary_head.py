"""Binary heads with one hidden layer, as parties carry them: Linear(D, H), activation, Linear(H, 1).

The authors' odd/even heads (arXiv 2505.14323): the one output z is the logit of class 1. Everything behind a head
speaks of K logits, so such a head answers (0, z), whose softmax is the sigmoid of z.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rhe_parties.errors import NumericError
from rhe_parties.model.head import check_training_sets
from rhe_parties.model.mlp import DeepHead, Layer
from rhe_parties.model.two_layer import BatchRecipe, split_parameters, train_batch
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray, IntArray

__all__ = ["BinaryHead", "binary_recipe", "train_binary_head"]

#: The authors' epochs times this: with theirs, 7 % of the *training* images of a head on `strokenet` are still decided
#: wrongly, and 25 % of fresh digits instead of 14 %.
_LONGER = 2
_SQUARE_STD = 0.02


@dataclass(frozen=True, eq=False)
class BinaryHead:
    """A trained binary head with one hidden layer.

    Attributes:
        deep: its two layers, the last of one output.

    Raises:
        NumericError: another number of layers or outputs.
    """

    deep: DeepHead

    def __post_init__(self) -> None:
        if len(self.deep.layers) != 2 or self.deep.classes != 1:
            layers, outputs = len(self.deep.layers), self.deep.classes
            raise NumericError(f"a binary head has two layers and one output, got {layers} and {outputs}")

    @classmethod
    def of(cls, flat: FloatArray, recipe: BatchRecipe, features: int) -> BinaryHead:
        """The head of flat parameters [P] in the order of `rhe_parties.model.two_layer.train_batch`."""
        parts = [part[0] for part in split_parameters(flat[None], recipe, features, 2)]
        return cls(DeepHead(((parts[0], parts[1]), (parts[2], parts[3])), recipe.activation))

    @property
    def classes(self) -> int:
        """Number of classes: 2."""
        return 2

    @property
    def features(self) -> int:
        """Number of features D."""
        return self.deep.features

    @property
    def hidden(self) -> int:
        """Units H of the hidden layer."""
        return self.deep.hidden[0]

    @property
    def hidden_layer(self) -> Layer:
        """Weight [H, D] and bias [H]."""
        return self.deep.layers[0]

    @property
    def encryptable(self) -> tuple[FloatArray, FloatArray, tuple[Layer, ...]]:
        """What a `HeadEncryptor` takes: weight [2, H] and bias [2] of both logits (0, z), and the hidden layer."""
        weight, bias = self.deep.layers[1]
        both = np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])
        return *both, (self.hidden_layer,)

    def logits(self, features: FloatArray) -> FloatArray:
        """Float32 logits (0, z) [B, 2] of features [B, D], computed in float64.

        Raises:
            NumericError: features of another width.
        """
        outputs = self.deep.logits(features)
        return np.concatenate([np.zeros_like(outputs), outputs], axis=1)


def binary_recipe(backbone_name: str, images_per_class: int, hidden: int, activation: str = "relu") -> BatchRecipe:
    """The recipe of binary heads.

    ReLU heads train as the authors' do, for longer. From weights as small as theirs x² has no slope to follow, and at
    their rate it runs away on 40 images: square heads start wider and take half the step. Accuracy on `digits`, odd or
    even, `strokenet`, all disjoint sets of 10 (40) images: authors' epochs 74.5 % (87.2 %), ReLU 85.6 % (90.4 %),
    square 84.5 % (90.0 %), a linear head 86.3 % (89.6 %).

    Args:
        images_per_class: of the classes that training sets are balanced over.
        hidden: units of the hidden layer.
        activation: `relu` or `square`.

    Raises:
        ParameterError: fewer than one image per class, or a value that is not allowed.
    """
    paper = BatchRecipe.paper(backbone_name, images_per_class)
    recipe = replace(paper, epochs=_LONGER * paper.epochs, hidden=hidden, activation=activation)
    if activation == "square":
        return replace(recipe, learning_rate=paper.learning_rate / 2, init_std=_SQUARE_STD)
    return recipe


def train_binary_head(features: FloatArray, labels: IntArray, recipe: BatchRecipe, seed: int) -> BinaryHead:
    """Train one head on features [N, D] and labels [N] in 0 and 1, on one thread.

    Raises:
        NumericError: features not finite, all alike, or of the wrong shape; training that diverged.
        DataError: no image, images of one class alone, or another label.
        ParameterError: a recipe of another loss or without a hidden layer.
    """
    check_training_sets(features[None], labels[None], 2, 1)
    rows = np.arange(len(labels))[None]
    with limited_threads(1):
        flat = train_batch(features, labels, rows, 2, recipe, seed)
    return BinaryHead.of(flat[0], recipe, features.shape[1])
