"""Features of small colour photographs without any pretrained weights: a dictionary of whitened patches.

Coates, Ng, "The importance of encoding versus training with sparse coding and vector quantization" (ICML 2011):
with whitening, a dictionary of randomly picked patches and a soft threshold are nearly as good as a learned one.
Patches of 6×6 pixels are normalised (mean and contrast) and whitened; the features are max(0, ⟨patch, entry⟩ −
threshold), averaged over the four quadrants, square-rooted. Neither labels nor gradients are used. It stands in
where ImageNet weights cannot be fetched; it is no substitute for them.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhe_parties.data.datasets import to_unit
from rhe_parties.errors import DataError
from rhe_parties.rng import numpy_stream
from rhe_parties.types import FloatArray, UInt8Array

__all__ = ["PatchFeatures"]

_SIDE, _THRESHOLD, _CONTRAST, _WHITENING = 6, 0.5, 0.01, 0.1
_PATCHES_PER_IMAGE, _BATCH = 10, 64
_NORM = 12.6  # mean norm of the features, that of the paper's MNIST features


class PatchFeatures:
    """A fixed extractor: images uint8 [n, C, H, W] in, features float32 [n, D] out, D = 4 · entries.

    Args:
        public: public images uint8 [m, C, H, W]; their patches make the dictionary and the whitening.
        entries: patches in the dictionary.
        seed: root seed of the choice.

    Raises:
        DataError: images too small or too few for the dictionary.
    """

    def __init__(self, public: UInt8Array, entries: int = 320, seed: int = 0) -> None:
        pixels = public.shape[1] * _SIDE**2
        if min(public.shape[2:]) < 2 * _SIDE or len(public) * _PATCHES_PER_IMAGE < max(4 * pixels, entries):
            raise DataError(
                f"patch features: {len(public)} public images of shape {public.shape[1:]} are too few or small"
            )
        self.features = 4 * entries
        patches = _normalised(_random_patches(public, seed))
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(patches.T))
        whiten = vectors * (values.clamp(min=0) + _WHITENING).rsqrt() @ vectors.T
        entry = (patches[:entries] - mean) @ whiten
        weights = (entry / entry.norm(dim=1, keepdim=True)) @ whiten
        self._shift = weights @ mean + _THRESHOLD
        self._sums = weights.sum(1)
        self._filters = weights.view(entries, public.shape[1], _SIDE, _SIDE)
        self._gain = 1.0
        self._gain = _NORM / float(np.linalg.norm(self.extract(public[:256]), axis=1).mean())

    def extract(self, images: UInt8Array) -> FloatArray:
        """Features float32 [n, D] of images uint8 [n, C, H, W]."""
        out = np.empty((len(images), self.features), np.float32)
        with torch.no_grad():
            for start in range(0, len(images), _BATCH):
                block = torch.from_numpy(to_unit(images[start : start + _BATCH]))
                out[start : start + len(block)] = self._encode(block).numpy()
        return out

    def _encode(self, images: Tensor) -> Tensor:
        """As on normalised patches, with the normalisation moved behind the convolution."""
        mean = F.avg_pool2d(images, _SIDE, 1).mean(1, keepdim=True)
        square = F.avg_pool2d(images.square(), _SIDE, 1).mean(1, keepdim=True)
        size = images.shape[1] * _SIDE**2
        variance = (square - mean.square()).clamp(min=0) * (size / (size - 1))
        raw = F.conv2d(images, self._filters) - mean * self._sums[:, None, None]
        code = raw / (variance + _CONTRAST).sqrt() - self._shift[:, None, None]
        return F.adaptive_avg_pool2d(code.clamp(min=0), 2).flatten(1).sqrt() * self._gain


def _random_patches(images: UInt8Array, seed: int) -> Tensor:
    """Float patches [count, C·side²] at random places, in random order."""
    generator = numpy_stream(seed, "patch-dictionary")
    count = len(images) * _PATCHES_PER_IMAGE
    which = generator.permutation(count) % len(images)
    rows = generator.integers(0, images.shape[2] - _SIDE + 1, count)
    columns = generator.integers(0, images.shape[3] - _SIDE + 1, count)
    near = np.arange(_SIDE)
    picked = images[which[:, None, None], :, (rows[:, None] + near)[:, :, None], (columns[:, None] + near)[:, None, :]]
    return torch.from_numpy(to_unit(np.moveaxis(picked, -1, 1).reshape(count, -1)))


def _normalised(patches: Tensor) -> Tensor:
    centred = patches - patches.mean(1, keepdim=True)
    return centred / (patches.var(1, keepdim=True) + _CONTRAST).sqrt()
