"""The interface of a defence."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

from rhe_parties.model.head import LinearHead, Recipe, train_head
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


DEFENCES: Registry[Defence] = Registry("defence", "rhe_parties.defences", Defence)
