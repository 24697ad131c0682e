"""The interface of a defence: at training, on the head, or on what the key holder releases.

A world may chain several (`rhe+rounding@digits=1`); each acts at its own stage. What a defence does is known to the
adversary: its name, its options and the recipe that it makes of the plain one (Kerckhoffs' principle).
"""

from __future__ import annotations

import functools
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from rhe_parties.registry import Registry
from rhe_parties.types import AnyArray, FloatArray, IntArray, UInt8Array

if TYPE_CHECKING:  # the key holder's process loads defences, and little else: no torch
    from rhe_parties.model.binary_head import BinaryHead
    from rhe_parties.model.head import LinearHead, Recipe
    from rhe_parties.model.two_layer import BatchRecipe

__all__ = ["DEFENCES", "AnyRecipe", "Defence", "Fact", "Fitted", "PublicData"]

#: How linear heads are trained, or heads with a hidden layer.
AnyRecipe: TypeAlias = "Recipe | BatchRecipe"
#: What a defence learnt from public data, array by array.
Fitted: TypeAlias = Mapping[str, FloatArray]
#: A fact about a defence in force, for people: name and value.
Fact: TypeAlias = tuple[str, str]


@dataclass(frozen=True, eq=False)
class PublicData:
    """What a defender may tune on: public images of the private ones' kind, none of them private.

    `images` uint8 [n, C, H, W], `extract` makes features of them, `labels` int64 [n]; a training set holds
    `images_per_class` of each of `classes`; `seed` is the root of random streams.
    """

    images: UInt8Array
    extract: Callable[[UInt8Array], FloatArray]
    labels: IntArray
    classes: int
    images_per_class: int
    seed: int

    @functools.cached_property
    def features(self) -> FloatArray:
        """Features float32 [n, D] of the images, extracted where a defence asks for them and no sooner."""
        return self.extract(self.images)

    @property
    def set_size(self) -> int:
        """Images N of a training set."""
        return self.classes * self.images_per_class


class Defence(ABC):
    """What protects private images; subclasses override the stage at which they act."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    #: Whether the head leaves the owner encrypted under the key holder's public key.
    encrypts: ClassVar[bool] = False
    #: Whether it protects heads with a hidden layer too, and not just linear ones.
    two_layers: ClassVar[bool] = True
    #: Whether its recipe changes the rule of training itself, and not just numbers in it.
    own_rule: ClassVar[bool] = False

    @dataclass(frozen=True)
    class Options:
        """Parameters, set in the world's name (`NAME@key=value@…`); override with a frozen dataclass of your own."""

    def __init__(self, options: Any = None, fitted: Fitted | None = None) -> None:
        self.options: Any = self.Options() if options is None else options
        #: What `fit` learnt, wherever the defence acts; empty before.
        self.fitted: Fitted = {} if fitted is None else fitted

    # ---- before anything private is touched ------------------------------------------------------------------

    def recipe(self, plain: AnyRecipe, public: PublicData) -> AnyRecipe:
        """How heads are trained, in place of the plain recipe and of its kind.

        Raises:
            ParameterError: options that do not go with this recipe or these data.
        """
        del public
        return plain

    def fit(self, public: PublicData, recipe: AnyRecipe) -> Fitted:
        """What `train` and `release` need to know, learnt from public data alone.

        It travels to the data owner where the defence trains, to the key holder where it acts on release, and is
        `fitted` there and for `facts`.
        """
        del public, recipe
        return {}

    def facts(self, recipe: AnyRecipe, images: int) -> list[Fact]:
        """What a reader of the report should know of the defence as it is in force, for sets of so many images."""
        del recipe, images
        return []

    def epsilon(self, recipe: AnyRecipe, images: int) -> float | None:
        """The ε of differential privacy that it guarantees for sets of so many images; None: no such guarantee."""
        del recipe, images
        return None

    # ---- at training: the data owner -------------------------------------------------------------------------

    def train(self, features: FloatArray, labels: IntArray, classes: int, recipe: Recipe, seed: int) -> LinearHead:
        """Train one head on `features` [N, D] and `labels` [N] by the recipe that `recipe` made.

        Raises:
            NumericError: features that are NaN, infinite or constant.
            ParameterError: a class without an image.
        """
        from rhe_parties.model.head import train_head

        return train_head(features, labels, classes, recipe, seed)

    def train_two_layer(self, features: FloatArray, labels: IntArray, recipe: BatchRecipe, seed: int) -> BinaryHead:
        """The same for a binary head with a hidden layer; `labels` are 0 and 1."""
        from rhe_parties.model.binary_head import train_binary_head

        return train_binary_head(features, labels, recipe, seed)

    # ---- on release: the key holder --------------------------------------------------------------------------

    def release(self, classes: IntArray, logits: AnyArray) -> tuple[IntArray, AnyArray]:
        """What goes out in place of classes int64 [B] and logits float64 [B, K].

        The answer to an image must depend on the image's logits alone, or asking again would average it out. Logits
        that come out are released only where the policy lets logits out.
        """
        return classes, logits

    # ---- what a subclass overrides ---------------------------------------------------------------------------

    @classmethod
    def trains(cls) -> bool:
        """Whether it trains heads in a way of its own, which only one defence of a world can."""
        return cls.own_rule or cls.train is not Defence.train or cls.train_two_layer is not Defence.train_two_layer

    @classmethod
    def acts_on_release(cls) -> bool:
        """Whether it changes what the key holder lets out."""
        return cls.release is not Defence.release

    @classmethod
    def takes_two_layers(cls) -> bool:
        """Whether it protects heads with a hidden layer too; one that overrides `train` alone does not."""
        return cls.two_layers and (cls.train is Defence.train or cls.train_two_layer is not Defence.train_two_layer)


DEFENCES: Registry[Defence] = Registry("defence", "rhe_parties.defences", Defence)
