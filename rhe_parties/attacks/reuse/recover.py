"""From related ciphertexts to heads: what shared masks and missing encryption give away, and nothing more.

Two ciphertexts with the same c1 hold Δ(m − m') + small errors in c0 − c0': the difference of two packed heads, read
exactly by rounding. Of g heads that share c1 everything is then known but one common head. Their mean is that of heads
as such but for a g-th of their variance, so w_i = μ + (m_i − mean m) is off by 1/g of the variance, against all of it
for the mean head μ. A transparent ciphertext (c1 = 0, as in the twin without encryption) is read as it is.

The unit of the integers goes to the key holder alone. It lies on a coarse public grid, and heads vary less in size than
the grid is wide: the adversary's own heads tell it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhe_parties.attacks.reuse.findings import UInt64Array, shared_groups
from rhe_parties.attacks.white_box import Heads
from rhe_parties.he import ckks
from rhe_parties.he.plain import read_polynomial
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.quantise import quantise_head
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial, check_head
from rhe_parties.he.seal_format import read_ciphertext
from rhe_parties.he.sealio import ciphertext_residues, parms_id, without_checksum
from rhe_parties.types import IntArray

__all__ = ["Pile", "Recovery", "read_pile", "recover_heads"]

BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pile:
    """The ciphertexts of V heads, T each: their bytes, and residues uint64 [V, T, 2, N] modulo `prime`."""

    plan: HeadPlan
    data: tuple[bytes, ...]
    residues: UInt64Array
    prime: int


@dataclass(frozen=True, eq=False)
class Recovery:
    """Estimated heads, and the share of their weights that rests on what was read in ciphertexts."""

    heads: Heads
    share: float


def read_pile(material: PublicMaterial, heads: Sequence[HeadCiphertexts]) -> Pile:
    """Parse heads encrypted under `material`; transparent ciphertexts, which a host refuses, are read as well.

    Of scheme `ckks`, whose ciphertexts lie over several primes, it is the residues modulo the first. The twin `plain`
    has no c1 and no q: its numbers stand in c0 modulo t.

    Raises:
        SchemeError: damaged ciphertexts, or ones for other keys.
    """
    plan = material.plan
    for head in heads:
        check_head(material, head)
    data = tuple(item for head in heads for item in head.ciphertexts)
    prime = plan.prime
    if plan.scheme == "plain":
        prime = plan.plain_modulus
        messages = np.stack([read_polynomial(plan, item) % prime for item in data]).astype(np.uint64)
        residues = np.stack([messages, np.zeros_like(messages)], axis=1)
    elif plan.scheme == "ckks":
        values = [value for head in heads for value in ckks.load_head(material, head)]
        residues = np.stack([ciphertext_residues(value)[:, 0] for value in values])
    else:
        mark = parms_id(plan)
        bodies = map(without_checksum, data)
        residues = np.stack([read_ciphertext(body, plan.degree, prime, mark, transparent=True) for body in bodies])
    return Pile(plan, data, residues.reshape(len(heads), -1, 2, residues.shape[-1]), prime)


def recover_heads(pile: Pile, head_ids: tuple[str, ...], shadows: Heads) -> Recovery:
    """Heads as far as ciphertexts give them away, the mean of the shadows where they do not.

    Only ciphertexts at the same place of two heads are compared here; CKKS differences, which are rounded numbers in
    another basis, are left alone.

    Args:
        pile: ciphertexts of the victims, of a linear head.
        head_ids: the victims.
        shadows: heads that the adversary trained itself.
    """
    places = _Places.of(pile.plan)
    flat = shadows.flat().astype(np.float64)
    mean = _columns(flat.mean(axis=0)[None], *shadows.weight.shape[1:])[0]
    if pile.plan.scheme == "ckks":
        estimate = np.broadcast_to(mean, (len(head_ids), *mean.shape))
        return Recovery(_as_heads(estimate, head_ids, shadows, float(flat.var(axis=0).mean())), 0.0)
    units, integers = _quantised(pile.plan, shadows)
    factors = places.factors(pile.plan)
    tiles = _read_tiles(pile)
    values = places.take(tiles.numbers) * factors
    clear, sizes = tiles.clear[:, places.tile], tiles.sizes[:, places.tile]
    unit = np.full((len(values), 1, 1), _mode(units))
    whole = tiles.clear.all(axis=1)
    if whole.any():
        unit[whole] = _own_units(values[whole], units, integers * factors)
    estimate = np.where(clear, 0.0, mean) + values * unit
    errors = _errors(np.unique(sizes), _columns(flat, *shadows.weight.shape[1:]), integers * factors * _mode(units))
    variance = np.where(clear, 0.0, np.vectorize(errors.get)(sizes))
    heads = _as_heads(estimate, head_ids, shadows, float(variance.mean()))
    return Recovery(heads, float((clear | (sizes > 1)).mean()))


@dataclass(frozen=True, eq=False)
class _Tiles:
    """What ciphertexts tell: `numbers` [V, T, N], the group's `sizes` and whether it is `clear`, both [V, T].

    Numbers of a clear one are its message, others the message's distance from the mean of its group, zero for a single.
    """

    numbers: Float64Array
    sizes: IntArray
    clear: BoolArray


@dataclass(frozen=True, eq=False)
class _Places:
    """Where a head's weights and bias [K, D+1] stand: `flat` index into T·N packed numbers, `tile` of them."""

    flat: IntArray
    tile: IntArray

    @classmethod
    def of(cls, plan: HeadPlan) -> _Places:
        layout = plan.layout
        shape = (layout.class_tiles, layout.feature_tiles, layout.degree)
        flat = layout.unpack_weights(np.arange(np.prod(shape), dtype=np.int64).reshape(shape))
        return cls(flat, flat // layout.degree)

    def take(self, packed: Float64Array) -> Float64Array:
        """[V, K, D+1] of packed numbers [V, T, N]."""
        return packed.reshape(len(packed), -1)[:, self.flat]

    def factors(self, plan: HeadPlan) -> Float64Array:
        """[K, D+1]: what an integer 1 stands for, in units of the head (see `quantise_head`)."""
        factors = np.full(self.flat.shape, 2.0**plan.feature_bits / plan.feature_norm)
        factors[:, -1] = 1.0
        return factors


def _read_tiles(pile: Pile) -> _Tiles:
    """Group the heads by c1 at each place, and round what is left of c0 to messages."""
    numbers = np.zeros((*pile.residues.shape[:2], pile.residues.shape[-1]))
    sizes = np.ones(numbers.shape[:2], dtype=np.int64)
    clear: BoolArray = np.logical_not(pile.residues[:, :, 1].any(axis=2))
    for tile in range(numbers.shape[1]):
        for group in shared_groups(pile.residues[:, tile, 1], pile.prime):
            own = pile.residues[group, tile, 0]
            if clear[group[0], tile]:
                numbers[group, tile] = _rounded(pile, own)
            elif len(group) > 1:
                differences = _rounded(pile, (own + np.uint64(pile.prime) - own[0]) % np.uint64(pile.prime))
                numbers[group, tile] = differences - differences.mean(axis=0)
                sizes[group, tile] = len(group)
    return _Tiles(numbers, sizes, clear)


def _rounded(pile: Pile, values: UInt64Array) -> Float64Array:
    """Messages of Δm + small errors, centred modulo t."""
    q, t = pile.prime, pile.plan.plain_modulus
    signed = np.where(values > np.uint64(q // 2), values.astype(np.int64) - q, values.astype(np.int64))
    messages: Float64Array = np.rint(signed / q * t)
    return messages


def _quantised(plan: HeadPlan, shadows: Heads) -> tuple[Float64Array, Float64Array]:
    """Units [S] and integers [S, K, D+1] of the shadows as an owner would encrypt them."""
    heads = [quantise_head(plan, weight, bias) for weight, bias in zip(shadows.weight, shadows.bias, strict=True)]
    return np.array([head.unit for head in heads]), np.stack([head.weights for head in heads]).astype(np.float64)


def _mode(units: Float64Array) -> float:
    values, counts = np.unique(units, return_counts=True)
    return float(values[counts.argmax()])


def _own_units(read: Float64Array, units: Float64Array, shadows: Float64Array) -> Float64Array:
    """Unit [V, 1, 1] of each head read in numbers [V, K, D+1]: that which makes it as large as shadows are."""
    size = np.log(np.linalg.norm(shadows * units[:, None, None], axis=(1, 2))).mean()
    known = np.unique(units)
    away = np.abs(np.log(np.linalg.norm(read, axis=(1, 2)))[:, None] + np.log(known) - size)
    nearest: Float64Array = known[away.argmin(axis=1)][:, None, None]
    return nearest


def _errors(sizes: IntArray, true: Float64Array, read: Float64Array) -> dict[int, float]:
    """Mean squared error per weight of heads in groups of each size, tried on the shadows: true and as read."""
    total, found = true.sum(axis=0), {}
    for size in sizes.tolist():
        width = min(size, len(true) // 2)
        count = len(true) // width
        own = true[: count * width].reshape(count, width, *true.shape[1:])
        # The mean head of the others, as it will be for victims, who are no shadows.
        others = (total - own.sum(axis=1)) / (len(true) - width)
        grouped = read[: count * width].reshape(own.shape)
        estimate = others[:, None] + grouped - grouped.mean(axis=1, keepdims=True)
        found[size] = float(np.square(estimate - own).mean())
    return found


def _columns(flat: Float64Array, classes: int, width: int) -> Float64Array:
    """Flat heads [S, K·(D+1)] as columns [S, K, D+1], bias last."""
    weight = flat[:, : classes * width].reshape(-1, classes, width)
    return np.concatenate([weight, flat[:, classes * width :, None]], axis=2)


def _as_heads(columns: npt.NDArray[np.float64], head_ids: tuple[str, ...], shadows: Heads, error: float) -> Heads:
    flat = np.concatenate([columns[:, :, :-1].reshape(len(columns), -1), columns[:, :, -1]], axis=1)
    return shadows.of(flat.astype(np.float32), head_ids, error)
