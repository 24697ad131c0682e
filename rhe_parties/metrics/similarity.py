"""Similarity of images: SSIM as published, PSNR; images in [-1, 1], so the range L is 2."""

from __future__ import annotations

import numpy as np

from rhe_parties.types import AnyArray, FloatArray

__all__ = ["psnr_of", "ssim"]

RANGE = 2.0
_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03
# An error below one 8-bit step in a million pixels counts as that, so that a perfect copy has a finite ratio.
_SMALLEST_ERROR = 1e-10
_BLOCK = 256


def psnr_of(mean_squared_error: AnyArray) -> AnyArray:
    """10 log10(L² / MSE) in dB with L = 2; at most 106 dB, which is what an exact copy gets."""
    ratio: AnyArray = 10 * np.log10(RANGE**2 / np.maximum(mean_squared_error, _SMALLEST_ERROR))
    return ratio


def ssim(first: FloatArray, second: FloatArray) -> AnyArray:
    """Structural similarity [n] of images [n, C, H, W] in [-1, 1] (Wang et al. 2004).

    Gaussian window of 11 pixels, σ 1.5, population moments, K1 0.01, K2 0.03; the mean over all places where the
    window fits and over channels. On images of fewer than 11 pixels a side the window is the largest odd one that fits.
    """
    window = min(_WINDOW, first.shape[-1] - (1 - first.shape[-1] % 2), first.shape[-2] - (1 - first.shape[-2] % 2))
    offsets = np.arange(window) - window // 2
    kernel = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    kernel /= kernel.sum()
    blurs = _blur(first.shape[-2], kernel), _blur(first.shape[-1], kernel)
    parts = [
        _ssim_block(first[i : i + _BLOCK].astype(np.float64), second[i : i + _BLOCK].astype(np.float64), *blurs)
        for i in range(0, len(first), _BLOCK)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _blur(side: int, kernel: AnyArray) -> AnyArray:
    """[side, places]: the kernel at every place where it fits, so that blurring is one matrix product per axis."""
    places = side - len(kernel) + 1
    matrix = np.zeros((side, places))
    for place in range(places):
        matrix[place : place + len(kernel), place] = kernel
    return matrix


def _ssim_block(a: AnyArray, b: AnyArray, rows: AnyArray, columns: AnyArray) -> AnyArray:
    def smooth(images: AnyArray) -> AnyArray:
        blurred: AnyArray = np.matmul(rows.T, images @ columns)
        return blurred

    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * RANGE) ** 2, (_K2 * RANGE) ** 2
    quotient = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    result: AnyArray = quotient.mean(axis=(1, 2, 3))
    return result
