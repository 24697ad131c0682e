"""What is wrong with a pile of ciphertexts: reused randomness, related masks, structure, no encryption at all.

A ciphertext (c0, c1) of an encryption under a public key (p0, p1) is (p0·u + e0 + Δm, p1·u + e1) with fresh u, e0, e1
for each one (Fan, Vercauteren 2012). Whoever uses u twice gives away c0 − c0' = Δ(m − m') + small errors, and c1 shows
it: c1 − c1' is small. The same holds up to a sign and a shift where u' = ±t^s·u. Honest residues are uniform modulo q.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from rhe_parties.errors import NumericError
from rhe_parties.types import IntArray

__all__ = ["Findings", "Relation", "UInt64Array", "examine", "pairs_of", "shared_groups"]

UInt64Array = npt.NDArray[np.uint64]

_TOP_BITS = 22
"""Bits of a coefficient that errors of an encryption (below 2^6) practically never move."""
_PROBES = 8
"""Coefficients compared: 8 times 22 bits agree by chance once in 2^176 pairs, and errors part a pair once in 2^24."""
_BINS = 256


@dataclass(frozen=True)
class Relation:
    """c1 of ciphertext `second` is `sign`·t^`shift` times that of `first` (negacyclic: t^N = −1)."""

    first: int
    second: int
    sign: int
    shift: int


@dataclass(frozen=True)
class Findings:
    """What was found among `count` ciphertexts.

    Attributes:
        count: ciphertexts examined.
        equal: pairs whose bytes are equal.
        shared: pairs with the same c1 but for errors of encryption.
        related: pairs whose c1 is the other's up to sign and shift, other than shared ones.
        transparent: bool [count], ciphertexts whose c1 is zero: anybody reads them.
        coincidences: pairs of equal residues among those of ciphertexts that are otherwise unrelated.
        expected: how many such pairs uniform residues have on average.
        uniformity: smallest p-value of chi-square tests of the residues' highest and lowest bits, times their number.
    """

    count: int
    equal: int
    shared: int
    related: tuple[Relation, ...]
    transparent: npt.NDArray[np.bool_]
    coincidences: int
    expected: float
    uniformity: float

    @property
    def pairs(self) -> int:
        """Pairs of ciphertexts that were compared."""
        return self.count * (self.count - 1) // 2

    @property
    def coincidence_chance(self) -> float:
        """Probability of at least as many equal residues if all are uniform."""
        return float(stats.poisson.sf(self.coincidences - 1, self.expected))

    def notes(self) -> dict[str, str]:
        """The findings in words, for a claim."""
        return {
            "pairs with equal bytes": f"{self.equal} of {self.pairs} pairs",
            "pairs that share c1": f"{self.shared} of {self.pairs} pairs",
            "pairs with c1 equal up to sign and shift": f"{len(self.related)} of {self.pairs} pairs",
            "transparent ciphertexts": f"{int(self.transparent.sum())} of {self.count}",
            "equal coefficients": (
                f"{self.coincidences}, {self.expected:.2g} expected of uniform ones (p = {self.coincidence_chance:.2g})"
            ),
            "coefficients uniform modulo q": f"p = {self.uniformity:.2g}",
        }


def examine(data: Sequence[bytes], residues: UInt64Array, prime: int) -> Findings:
    """Examine ciphertexts.

    Args:
        data: their bytes, one entry per ciphertext.
        residues: uint64 [n, 2, N], c0 and c1 in coefficient form modulo `prime`.
        prime: q.

    Raises:
        NumericError: residues of another shape, or not below q.
    """
    if residues.ndim != 3 or residues.shape[:2] != (len(data), 2) or not residues.size:
        raise NumericError(f"{len(data)} ciphertexts take residues [{len(data)}, 2, N], got {list(residues.shape)}")
    if int(residues.max()) >= prime:
        raise NumericError(f"residue {int(residues.max())} is not below the modulus {prime}")
    masks = residues[:, 1]
    transparent: npt.NDArray[np.bool_] = np.logical_not(masks.any(axis=1))
    hidden = np.flatnonzero(~transparent)
    groups = shared_groups(masks[hidden], prime)
    # One of each group: copies would be found again as equal coefficients.
    distinct = hidden[[group[0] for group in groups]]
    related = _related(masks, distinct, prime)
    alone = np.setdiff1d(distinct, [relation.second for relation in related])
    values = residues[alone].ravel()
    return Findings(
        count=len(data),
        equal=pairs_of(_grouped(hashlib.sha256(item).digest() for item in data)),
        shared=pairs_of(groups),
        related=tuple(related),
        transparent=transparent,
        coincidences=_coincidences(values),
        expected=len(values) * (len(values) - 1) / 2 / prime,
        uniformity=_uniformity(values, prime),
    )


def shared_groups(masks: UInt64Array, prime: int) -> list[list[int]]:
    """Rows of c1 uint64 [n, N] that are the same but for errors of encryption: groups, singles among them.

    A mask that is zero throughout hides nothing and is grouped like any other.
    """
    shift = np.uint64(max(0, prime.bit_length() - _TOP_BITS))
    probes = np.ascontiguousarray(masks[:, :_PROBES] >> shift)
    return _grouped(row.tobytes() for row in probes)


def pairs_of(groups: Iterable[Sequence[int]]) -> int:
    """Pairs within groups."""
    return sum(len(group) * (len(group) - 1) // 2 for group in groups)


def _grouped(keys: Iterable[bytes]) -> list[list[int]]:
    """Indices with equal keys, in the order of their first."""
    found: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        found[key].append(index)
    return list(found.values())


def _related(masks: UInt64Array, rows: IntArray, prime: int) -> list[Relation]:
    """Pairs of rows of c1 [n, N] that are exactly ±t^s times one another."""
    # Sign and negacyclic shift leave the sorted magnitudes as they are.
    centred = np.minimum(masks[rows], np.uint64(prime) - masks[rows])
    digests = [hashlib.sha256(np.sort(row).tobytes()).digest() for row in centred]
    found = []
    for group in _grouped(digests):
        first = group[0]
        for other in group[1:]:
            relation = _turn(masks[rows[first]], masks[rows[other]], prime)
            if relation is not None:
                found.append(Relation(int(rows[first]), int(rows[other]), *relation))
    return found


def _turn(first: UInt64Array, second: UInt64Array, prime: int) -> tuple[int, int] | None:
    """(sign, shift) with second = sign·t^shift·first, or None."""
    degree = len(first)
    top = int(np.minimum(first, np.uint64(prime) - first).argmax())
    magnitudes = np.minimum(second, np.uint64(prime) - second)
    for place in np.flatnonzero(magnitudes == magnitudes.max()).tolist():
        shift = (place - top) % degree
        turned = np.roll(first, shift)
        turned[:shift] = _negative(turned[:shift], prime)
        for sign, row in ((1, turned), (-1, _negative(turned, prime))):
            if np.array_equal(row, second):
                return sign, shift
    return None


def _negative(values: UInt64Array, prime: int) -> UInt64Array:
    negated: UInt64Array = (np.uint64(prime) - values) % np.uint64(prime)
    return negated


def _coincidences(values: UInt64Array) -> int:
    """Pairs of equal values."""
    _, counts = np.unique(values, return_counts=True)
    many = counts[counts > 1].astype(np.int64)
    return int((many * (many - 1) // 2).sum())


def _uniformity(values: UInt64Array, prime: int) -> float:
    """Bonferroni-corrected p-value of two chi-square tests; 1 where there are too few values to test."""
    if len(values) < 20 * _BINS:
        return 1.0
    # Float64 has 53 bits: which of 256 bins a residue falls into is right but for a share of 2^-45 at the edges.
    high = np.minimum((values.astype(np.float64) * (_BINS / prime)).astype(np.int64), _BINS - 1)
    low = (values & np.uint64(_BINS - 1)).astype(np.int64)
    chances = [float(stats.chisquare(np.bincount(bins, minlength=_BINS)).pvalue) for bins in (high, low)]
    smallest = min(chances)
    return 1.0 if math.isnan(smallest) else min(1.0, len(chances) * smallest)
