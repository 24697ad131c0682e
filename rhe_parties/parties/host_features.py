"""The host's features of several requests at once, and whose inputs among them were scaled down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rhe_parties.messages.payloads import ClassifyRequest
from rhe_parties.model.backbone import Backbone
from rhe_parties.types import AnyArray, FloatArray, UInt8Array

__all__ = ["joint_features", "saturated_shares"]


def joint_features(backbone: Backbone, requests: list[ClassifyRequest], on_device: bool) -> Any:
    """Features [B, D] of several requests in their order; those of equal image shape are computed together.

    An array, or with `on_device` a tensor where the backbone runs: for an evaluator that takes it from there.
    """
    extract: Callable[[UInt8Array], Any] = backbone.extract_on_device if on_device else backbone.extract
    given: list[AnyArray] = [request.features if request.features.size else request.images for request in requests]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, array in enumerate(given):
        by_shape.setdefault(array.shape[1:], []).append(index)
    parts = []
    for alike in by_shape.values():
        joined = np.concatenate([given[index] for index in alike]) if len(alike) > 1 else given[alike[0]]
        if joined.ndim == 4:
            parts.append(extract(joined))
        else:
            parts.append(torch.from_numpy(joined).to(backbone.device) if on_device else joined)
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *map(len, given)])
    held = [np.arange(starts[index], starts[index + 1]) for alike in by_shape.values() for index in alike]
    order = np.argsort(np.concatenate(held))
    return torch.cat(parts)[torch.from_numpy(order)] if on_device else np.concatenate(parts)[order]


def saturated_shares(saturated: int, features: Any, sizes: list[int]) -> list[int]:
    """Which part of a batch the inputs belong to that the evaluator scaled down to the public norm.

    It scales by one bound of the norm, so these are the `saturated` inputs with the largest norms.
    """
    if len(sizes) == 1 or not saturated:
        return [saturated, *[0] * (len(sizes) - 1)]
    values: FloatArray = features.cpu().numpy() if isinstance(features, torch.Tensor) else features
    scaled = np.zeros(len(values), dtype=np.int64)
    scaled[np.argsort(-np.linalg.norm(values, axis=1), kind="stable")[:saturated]] = 1
    return [int(part.sum()) for part in np.split(scaled, np.cumsum(sizes)[:-1])]
