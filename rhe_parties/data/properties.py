"""Private properties of a training set, and sets that have them: the subject of property inference.

Properties by name:

- `class-share:K`: the share of class K among the N images; the others are drawn evenly from the other classes;
- `presence:K`: 1 when class K is among the N images, 0 when it is not (the other classes then fill its places);
- `thickness`: 0 for images of any stroke, 1 for images whose mean pixel lies above the median of their class.

The law by which sets are drawn is public: laboratory and adversary draw from it with images of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.errors import DataError, ParameterError, unknown_name
from rhe_parties.rng import numpy_stream
from rhe_parties.types import IntArray, UInt8Array

__all__ = ["Property", "parse_property", "property_sets"]

_KINDS = ("class-share", "presence", "thickness")
_SHARES = (0.1, 0.5)


@dataclass(frozen=True)
class Property:
    """A property: its kind, the class it speaks of (-1: none), and the values that it takes by default."""

    kind: str
    label: int
    values: tuple[float, ...]


def parse_property(name: str, classes: int) -> Property:
    """The property behind a name.

    Raises:
        ParameterError: unknown kind, or a class that does not exist.
    """
    kind, colon, text = name.partition(":")
    if kind not in _KINDS:
        raise unknown_name("property", kind, _KINDS)
    if kind == "thickness":
        if colon:
            raise ParameterError(f"property={name!r} is not allowed: thickness speaks of no class")
        return Property(kind, -1, (0.0, 1.0))
    if not (text.isascii() and text.isdigit() and int(text[:6]) < classes):
        raise ParameterError(f"property={name!r} is not allowed: {kind}:K with K from 0 to {classes - 1}")
    return Property(kind, int(text), _SHARES if kind == "class-share" else (0.0, 1.0))


def property_sets(
    images: UInt8Array,
    labels: IntArray,
    classes: int,
    images_per_set: int,
    name: str,
    value: float,
    count: int,
    seed: int,
) -> IntArray:
    """Random training sets with a property.

    Inside one set no image comes twice; two sets may share images. A set may lack classes.

    Args:
        images: uint8 [n, C, H, W].
        labels: int64 [n].
        classes: K.
        images_per_set: N.
        name: the property, see `parse_property`.
        value: its value; a share is rounded to whole images.
        count: how many sets.
        seed: root seed; set i depends on it, on name and value, and on i alone.

    Returns:
        Indices int64 [count, N] into `images`, ordered by class.

    Raises:
        ParameterError: unknown property, or a value that it cannot take.
        DataError: a class with too few images.
    """
    wanted = parse_property(name, classes)
    allowed = 0 <= value <= 1 if wanted.kind == "class-share" else value in wanted.values
    if not allowed or images_per_set < 1 or count < 1:
        raise ParameterError(
            f"property {name!r}: value {value}, {images_per_set} images per set and {count} sets are not allowed "
            "(shares 0 to 1, otherwise 0 or 1; at least 1 of each)"
        )
    pools = [np.flatnonzero(labels == label) for label in range(classes)]
    if wanted.kind == "thickness" and value == 1:
        ink = images.reshape(len(images), -1).mean(axis=1)
        pools = [pool[ink[pool] > np.median(ink[pool])] if len(pool) else pool for pool in pools]
    purpose = f"property-{name}-{value:.6f}"
    return np.stack(
        [
            _one_set(pools, _counts(wanted, value, images_per_set, classes, seed, i), seed, purpose, i)
            for i in range(count)
        ]
    )


def _counts(wanted: Property, value: float, total: int, classes: int, seed: int, index: int) -> IntArray:
    """Images of each class in one set, int64 [K]: even but for the class that the property speaks of.

    What does not divide evenly goes to classes drawn anew for every set.
    """
    counts = np.zeros(classes, np.int64)
    free = np.arange(classes)
    if wanted.kind != "thickness":
        own = round(value * total) if wanted.kind == "class-share" else round(value) * max(1, total // classes)
        counts[wanted.label], free = own, np.delete(free, wanted.label)
        total -= own
    each, rest = divmod(total, len(free))
    counts[free] = each
    counts[numpy_stream(seed, "property-counts", index).permutation(free)[:rest]] += 1
    return counts


def _one_set(pools: list[IntArray], counts: IntArray, seed: int, purpose: str, index: int) -> IntArray:
    stream = numpy_stream(seed, purpose, index)
    parts = []
    for label, (pool, number) in enumerate(zip(pools, counts, strict=True)):
        if number > len(pool):
            raise DataError(f"class {label} has {len(pool)} images of the wanted kind, {number} are needed for one set")
        parts.append(stream.choice(pool, size=number, replace=False))
    return np.concatenate(parts).astype(np.int64)
