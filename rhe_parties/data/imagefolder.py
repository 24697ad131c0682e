"""The user's own images: one folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from rhe_parties.errors import DataError
from rhe_parties.types import IntArray, UInt8Array

__all__ = ["IMAGE_SUFFIXES", "read_folder", "read_image", "stack_images"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_GRAY_MODES = frozenset({"1", "L", "I", "I;16", "F"})


def read_folder(folder: Path, size: int) -> tuple[UInt8Array, IntArray, tuple[str, ...], npt.NDArray[np.bool_] | None]:
    """Read images of a folder tree.

    Args:
        folder: holds one folder per class; or just `train` and `test`, each with the same class folders.
        size: side in pixels; images are scaled so that the shorter side fits, then cut in the middle.

    Returns:
        Images uint8 [n, C, size, size] (C = 1 when every file is gray, else 3), labels int64 [n], class names
        in alphabetical order, and which images are the test part (None without `train` and `test`).

    Raises:
        DataError: no such folder, no class folders, a class without images, an unreadable image.
    """
    if not folder.is_dir():
        raise DataError(f"imagefolder: {folder} is no folder; give one that holds a folder of images per class")
    top = [path.name for path in _subfolders(folder)]
    halves = [folder / "train", folder / "test"] if top == ["test", "train"] else [folder]
    names = [path.name for path in _subfolders(halves[0])]
    if len(names) < 2:
        raise DataError(f"imagefolder: {halves[0]} holds {len(names)} class folders; at least 2 are needed")
    pictures: list[UInt8Array] = []
    labels: list[int] = []
    test: list[bool] = []
    for half in halves:
        if [path.name for path in _subfolders(half)] != names:
            raise DataError(f"imagefolder: {half} and {halves[0]} must hold the same class folders")
        for label, name in enumerate(names):
            found = _images(half / name)
            pictures += [read_image(path, size) for path in found]
            labels += [label] * len(found)
            test += [half is not halves[0]] * len(found)
    official = np.array(test) if len(halves) == 2 else None
    return stack_images(pictures), np.array(labels, np.int64), tuple(names), official


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not found:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"imagefolder: class folder {folder} holds no image ({kinds})")
    return found


def stack_images(pictures: Sequence[UInt8Array]) -> UInt8Array:
    """Images [1 or 3, H, W], at least one, as uint8 [n, C, H, W]: C = 1 when every one is gray, else 3."""
    gray = all(picture.shape[0] == 1 for picture in pictures)
    return np.stack(pictures if gray else [np.repeat(p, 3, axis=0) if p.shape[0] == 1 else p for p in pictures])


def read_image(path: Path, size: int) -> UInt8Array:
    """One image as uint8 [1 or 3, size, size], scaled so that its shorter side fits, then cut in the middle.

    Raises:
        DataError: it is not there, or is no image that can be read.
    """
    try:
        with Image.open(path) as opened:
            if opened.mode in ("I", "I;16", "F"):
                deep = np.asarray(opened, np.float64)
                # 16-bit files keep their brightness relative to the full range of their type.
                top = 65535.0 if deep.max() > 255 else 255.0
                image = Image.fromarray(np.clip(deep * (255.0 / top), 0, 255).astype(np.uint8))
            else:
                image = opened.convert("L" if opened.mode in _GRAY_MODES else "RGB")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read image {path}: {error}") from error
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top_edge = (width - size) // 2, (height - size) // 2
    pixels = np.asarray(image.crop((left, top_edge, left + size, top_edge + size)))
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
