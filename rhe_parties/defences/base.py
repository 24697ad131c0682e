"""The interface of a defence."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

from rhe_parties.model.binary_head import BinaryHead, train_binary_head
from rhe_parties.model.head import LinearHead, Recipe, train_head
from rhe_parties.model.two_layer import BatchRecipe
from rhe_parties.registry import Registry
from rhe_parties.types import FloatArray, IntArray

__all__ = ["DEFENCES", "Defence"]


class Defence(ABC):
    """What the data owner does to protect its images; subclasses override the stage at which they act."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    #: Whether the head leaves the owner encrypted under the key holder's public key.
    encrypts: ClassVar[bool] = False

    def train(self, features: FloatArray, labels: IntArray, classes: int, recipe: Recipe, seed: int) -> LinearHead:
        """Train one head on `features` [N, D] and `labels` [N]; the default is the plain recipe.

        Raises:
            NumericError: features that are NaN, infinite or constant.
            ParameterError: a class without an image.
        """
        return train_head(features, labels, classes, recipe, seed)

    def train_two_layer(self, features: FloatArray, labels: IntArray, recipe: BatchRecipe, seed: int) -> BinaryHead:
        """The same for a binary head with a hidden layer; `labels` are 0 and 1.

        A defence that overrides `train` alone is refused where heads have a hidden layer.
        """
        return train_binary_head(features, labels, recipe, seed)

    @classmethod
    def takes_two_layers(cls) -> bool:
        """Whether it protects heads with a hidden layer too, and not just linear ones."""
        return cls.train is Defence.train or cls.train_two_layer is not Defence.train_two_layer


DEFENCES: Registry[Defence] = Registry("defence", "rhe_parties.defences", Defence)
