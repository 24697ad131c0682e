"""Images of other domains than the private one: what an adversary that does not know the domain has in its pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from rhe_parties.data.datasets import resize
from rhe_parties.data.strokes import draw_images
from rhe_parties.errors import ParameterError, unknown_name
from rhe_parties.rng import numpy_stream, torch_stream
from rhe_parties.types import AnyArray, UInt8Array

__all__ = ["domain_catalogue", "mixture_images"]

Shape = tuple[int, int, int]
_GRID = 32  # pixels at which most domains are drawn before they are resized
_MAX_ZOOM = 4


def _strokes(count: int, shape: Shape, seed: int) -> UInt8Array:
    """Invented characters in light ink on dark ground."""
    drawn = draw_images(count, torch_stream(seed, "domain-strokes"))
    return _fit(_to_bytes(drawn.numpy()[:, 0] * 127.5 + 127.5), shape)


def _inverted(count: int, shape: Shape, seed: int) -> UInt8Array:
    """Invented characters in dark ink on light ground."""
    drawn = draw_images(count, torch_stream(seed, "domain-inverted"))
    return _fit(_to_bytes(127.5 - drawn.numpy()[:, 0] * 127.5), shape)


def _noise(count: int, shape: Shape, seed: int) -> UInt8Array:
    """Independent uniform pixels."""
    rng = numpy_stream(seed, "domain-noise")
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8)


def _blobs(count: int, shape: Shape, seed: int) -> UInt8Array:
    """Smooth random fields, stretched to the full range."""
    rng = numpy_stream(seed, "domain-blobs")
    places = np.fft.fftfreq(_GRID)
    distance = np.hypot(places[:, None], places[None, :])
    width = rng.uniform(0.03, 0.12, (count, 1, 1))
    waves = np.fft.fft2(rng.standard_normal((count, _GRID, _GRID)))
    field = np.fft.ifft2(waves * np.exp(-0.5 * np.square(distance / width))).real
    low, high = field.min(axis=(1, 2), keepdims=True), field.max(axis=(1, 2), keepdims=True)
    return _fit(_to_bytes(255 * (field - low) / np.maximum(high - low, 1e-12)), shape)


def _textures(count: int, shape: Shape, seed: int) -> UInt8Array:
    """Patches of photographs: the two sample images of scikit-learn (a temple's roofs, a flower)."""
    from sklearn.datasets import load_sample_images

    photographs = [np.asarray(image, np.float64) for image in load_sample_images().images]
    rng = numpy_stream(seed, "domain-textures")
    patches = np.empty((count, 3, _GRID, _GRID))
    for patch in patches:
        photograph = photographs[rng.integers(len(photographs))]
        zoom = int(rng.integers(1, _MAX_ZOOM + 1))
        side = _GRID * zoom
        top, left = (int(rng.integers(length - side + 1)) for length in photograph.shape[:2])
        cut = photograph[top : top + side, left : left + side]
        patch[:] = cut.reshape(_GRID, zoom, _GRID, zoom, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    return _fit(_to_bytes(patches if shape[0] == 3 else patches.mean(axis=1)), shape)


_DOMAINS: dict[str, tuple[Callable[[int, Shape, int], UInt8Array], str]] = {
    "strokes": (_strokes, "invented characters, light on dark"),
    "inverted": (_inverted, "invented characters, dark on light"),
    "noise": (_noise, "independent uniform pixels"),
    "blobs": (_blobs, "smooth random fields"),
    "textures": (_textures, "patches of two photographs that scikit-learn ships"),
}


def domain_catalogue() -> list[tuple[str, str]]:
    """(name, summary) of the domains that `mixture_images` knows."""
    return [(name, summary) for name, (_, summary) in _DOMAINS.items()]


def mixture_images(names: Sequence[str], count_each: int, shape: Shape, seed: int) -> UInt8Array:
    """Images of the named domains, one domain after the other; their labels are nobody's.

    Args:
        names: domains, each once; may be empty.
        count_each: images of each, at least 1.
        shape: (C, H, W) with 1 or 3 channels and sides of at least 8 pixels.
        seed: root seed; a domain's images depend on nothing but it, the count and the shape.

    Returns:
        uint8 [len(names)·count_each, C, H, W].

    Raises:
        ParameterError: an unknown or repeated name, or a count or shape that is not allowed.
    """
    for index, name in enumerate(names):
        if name not in _DOMAINS:
            raise unknown_name("image domain", name, _DOMAINS)
        if name in names[:index]:
            raise ParameterError(f"image domain {name!r} is named twice")
    if count_each < 1:
        raise ParameterError(f"count_each = {count_each} is not allowed: at least 1 image per domain")
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < 8:
        raise ParameterError(f"image shape {tuple(shape)} is not allowed: (1 or 3, at least 8, at least 8)")
    parts = [_DOMAINS[name][0](count_each, shape, seed) for name in names]
    return np.concatenate(parts) if parts else np.empty((0, *shape), np.uint8)


def _to_bytes(values: AnyArray) -> UInt8Array:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _fit(images: UInt8Array, shape: Shape) -> UInt8Array:
    """Gray [n, H, W] or colour [n, 3, H, W] images in the wanted shape."""
    stacked = images[:, None] if images.ndim == 3 else images
    channels, height, width = shape
    if height == width:
        resized = resize(stacked, height)
    else:
        block = torch.nn.functional.interpolate(
            torch.from_numpy(stacked).float(), size=(height, width), mode="bilinear", align_corners=False
        )
        resized = _to_bytes(block.numpy())
    return np.ascontiguousarray(np.broadcast_to(resized, (len(resized), channels, height, width)))
