"""Images worth asking about: varied mixtures to begin with, then points near the decision boundary between two of them.

Image queries cannot reach an arbitrary feature vector, but features of any image are computed at home. A segment joins
two images of different classes; its images are (1-t)·p + t·q rounded to whole grey levels, so the search may go on
until the rounding leaves nothing between the two ends.
"""

from __future__ import annotations

import numpy as np

from rhe_parties.attacks.extraction.gauge import Float64Array
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.rng import numpy_stream
from rhe_parties.types import AnyArray, IntArray, UInt8Array

__all__ = ["Segments", "between", "varied_images"]

_PLAIN_SHARE = 0.5
_CONTRAST = (0.5, 1.0)
_NOISE = 24.0  # grey levels


def varied_images(images: UInt8Array, count: int, seed: int) -> UInt8Array:
    """`count` images for the first questions: half of them as they are, the others mixed and disturbed.

    The others are mixtures of two to four images with random shares, of reduced contrast, every second one with
    noise: real images alone excite few directions of the features.

    Args:
        images: auxiliary images uint8 [n, C, H, W].
        count: how many to make.
        seed: root seed.

    Raises:
        DataError: fewer than four images.
        ParameterError: a count below 1.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) < 4:
        raise DataError(f"queries need at least 4 auxiliary images uint8 [n, C, H, W], got {images.shape}")
    if count < 1:
        raise ParameterError(f"count = {count} is not allowed: at least 1 query")
    rng = numpy_stream(seed, "extraction-images")
    plain = min(int(np.ceil(_PLAIN_SHARE * count)), len(images))
    first = images[rng.permutation(len(images))[:plain]]
    return np.concatenate([first, _mixtures(images, count - plain, rng)])


def _mixtures(images: UInt8Array, count: int, rng: np.random.Generator) -> UInt8Array:
    parts = rng.integers(0, len(images), (count, 4))
    shares = rng.dirichlet(np.ones(4), count)
    shares *= np.arange(4) < rng.integers(2, 5, (count, 1))
    shares /= shares.sum(1, keepdims=True)
    mixed = np.einsum("nm,nmchw->nchw", shares.astype(np.float32), images[parts].astype(np.float32), optimize=True)
    mixed *= rng.uniform(*_CONTRAST, (count, 1, 1, 1)).astype(np.float32)
    noise = rng.normal(scale=_NOISE, size=mixed.shape).astype(np.float32)
    mixed[::2] += noise[::2]
    out: UInt8Array = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return out


def between(first: UInt8Array, second: UInt8Array, place: Float64Array) -> UInt8Array:
    """Images [n, C, H, W] at `place` [n] in [0, 1] on the way from `first` to `second`, in whole grey levels."""
    share = place.astype(np.float32).reshape(-1, 1, 1, 1)
    start = first.astype(np.float32)
    mixed: UInt8Array = np.rint(start + share * (second.astype(np.float32) - start)).astype(np.uint8)
    return mixed


class Segments:
    """Brackets around a change of class on the way between pairs of images.

    Each end has a place t in [0, 1], feature coordinates and a class: the answered one, or the predicted one where the
    prediction is beyond doubt.

    Attributes:
        ends: indices [n, 2] into the images.
        place: t of both ends, float64 [n, 2].
        rows: feature coordinates of both ends, float64 [n, 2, r+1].
        classes: class at both ends, int64 [n, 2], never equal.
        open: bool [n]; False once the ends are neighbours on the grid of grey levels.
    """

    def __init__(self, ends: IntArray, rows: Float64Array, classes: IntArray) -> None:
        self.ends, self.rows, self.classes = ends, rows, classes
        self.place = np.tile([0.0, 1.0], (len(ends), 1))
        self.open = np.ones(len(ends), np.bool_)

    def __len__(self) -> int:
        return len(self.ends)

    def crossing(self, margins: Float64Array, chosen: IntArray) -> Float64Array:
        """Where [n] the class should change in the chosen segments, as a share of the bracket.

        Args:
            margins: predicted logit of the first end's class less that of the second end's, at both ends [n, 2].
            chosen: indices [n] of segments.

        A prediction that contradicts the classes at the ends is worth nothing: then it is the middle.
        """
        first, second = margins[:, 0], margins[:, 1]
        sound = (first > 0) & (second < 0)
        share = np.where(sound, first / np.where(sound, first - second, 1.0), 0.5)
        wide = self.place[chosen, 1] - self.place[chosen, 0] > 0.5
        return np.clip(share, np.where(wide, 0.1, 0.02), np.where(wide, 0.9, 0.98))

    def narrow(self, chosen: IntArray, place: Float64Array, rows: Float64Array, classes: IntArray) -> None:
        """Move one end of each chosen segment to a point inside it whose class is known now."""
        side = (classes != self.classes[chosen, 0]).astype(np.int64)
        self.place[chosen, side] = place
        self.rows[chosen, side] = rows
        self.classes[chosen, side] = classes

    def close(self, chosen: AnyArray) -> None:
        """Leave the chosen segments alone from now on."""
        self.open[chosen] = False
