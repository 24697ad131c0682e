"""Exact arithmetic in Z_q[t]/(t^N+1), q < 2^54, out of float64 matrix products and int64 elementwise operations.

A residue is kept *lazily*: as any int64 congruent to it within ±(1 + 2^-5)·q. Every sum of products is a matrix
product of limbs: integers of 18 and 27 bits in float64, whose sums stay below 2^53 and are therefore exact in any
order, with fused multiply-adds or without, on a CPU or on the tensor cores of a GPU. `join` puts the sums together:
the quotient by q comes from float64, the remainder from int64 that wraps around.

The negacyclic transform X[k] = Σ_n x[n]·ψ^(n(2k+1)), ψ of order 2N, is done in two matrix products (the four-step
transform: Bailey, "FFTs in external or hierarchical memory", 1990) with the twiddles inside the second one. With
N = A·B, n = a + A·b, k = e + B·c:
    Z[e,a] = Σ_b ψ^(A·b(2e+1))·x[b,a]          X[e,c] = Σ_a ψ^(a(2(e + B·c)+1))·Z[e,a]
The transform domain is ordered as [e, c]; products are pointwise, so the order does not matter.

Arrays have the coefficient first and polynomials last: [N, rows]. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch

from rhe_parties.errors import ParameterError
from rhe_parties.types import IntArray

__all__ = ["MAX_TERMS", "SMALL_BITS", "TorchRing", "balanced_limbs", "join", "split", "split_at_once"]

_LOW, _HIGH = 18, 27  # bits of the limbs of the two factors of a product
_PRIME_BITS, _DEGREE_BITS = 54, 14
MAX_TERMS = 256
"""Products in one sum of `multiply`: 256 terms of at most 1.04·2^18·(2^26 + 1) stay below 2^53."""
SMALL_BITS = 26
"""Coefficients that `forward_small` takes are at most 2^26 in magnitude."""


def split(values: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """int64 [outer, inner] as float64 limbs [outer, count, inner]: Σ_i limb_i·2^(bits·i).

    All limbs but the last are in [0, 2^bits).
    """
    outer, inner = values.shape
    result = torch.empty(outer, count, inner, dtype=torch.float64, device=values.device)
    targets = result.unbind(1)
    for target in targets[:-2]:
        torch.bitwise_and(values, (1 << bits) - 1, out=target)
        values = torch.bitwise_right_shift(values, bits)
    torch.bitwise_and(values, (1 << bits) - 1, out=targets[-2])
    torch.bitwise_right_shift(values, bits, out=targets[-1])
    return result


def split_at_once(values: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The same as `split` in the form that compiles into one kernel."""
    parts = [values >> (bits * i) & (1 << bits) - 1 for i in range(count - 1)]
    return torch.stack([*parts, values >> (bits * (count - 1))], dim=1).double()


def balanced_limbs(values: torch.Tensor, bits: int, targets: Sequence[torch.Tensor]) -> None:
    """Write int64 `values` as Σ_i targets_i·2^(bits·i), all limbs but the last within ±2^(bits-1); any number types.

    Together |targets_i|·2^(bits·i) add up to at most 7·|value| for three limbs: |targets_0| ≤ |value|, so the rest
    is at most 2·|value|, of which the middle limb is at most as much, so the last is at most 4·|value|.
    """
    for target in targets[:-1]:
        rest = torch.add(values, 1 << (bits - 1)).bitwise_right_shift_(bits)
        torch.sub(values, rest, alpha=1 << bits, out=target)
        values = rest
    targets[-1].copy_(values)


def join(sums: torch.Tensor, bits: int, prime: int) -> torch.Tensor:
    """Σ_i sums[:, i]·2^(bits·i) modulo q, lazily: int64 [outer, inner] of two or three integers [outer, 2 or 3, inner].

    The sums are float64 up to 2^53 or int64. The total v may leave int64; v - trunc(v/q)·q does not, and is computed
    modulo 2^64. In float64 v/q takes at most eight roundings, relative to Σ_i |sums_i|·2^(bits·i) / q. That is below
    2^45 in every use here: transforms have balanced limbs of a root |w| ≤ q/2 (7·|w| together) against limbs of
    a total of at most 128·2.04·2^27, which gives 2^37; products have limbs of |x| ≤ 1.04·q (up to |x| + 2^37
    together) against 256 limbs of at most min(2^26, q/2) + 1, which gives 2^45 for small and 2^36 for large q. So the
    quotient is off by less than 1 + 8·2^(45-53) = 1 + 2^-5.
    """
    parts, whole = sums.unbind(1), sums.long().unbind(1)
    quotient, total = parts[-1], whole[-1]
    for part, integers in zip(reversed(parts[:-1]), reversed(whole[:-1]), strict=True):
        quotient = torch.add(part, quotient.double(), alpha=float(1 << bits))
        total = torch.add(integers, total, alpha=1 << bits)
    return total.sub_(quotient.mul_(1.0 / prime).long(), alpha=prime)


class TorchRing:
    """Transforms and products on one device.

    Sums in a transform have at most 128 terms (N ≤ 2^14) for each of two limbs of the data, which are at most 2^27
    and 1.04·2^27, times limbs of the matrix of at most 2^17 + 1: below 128·2.04·2^27·(2^17 + 1) < 2^53.

    Args:
        degree: N, a power of two from 2 to 2^14.
        prime: q < 2^54, a prime with q ≡ 1 (mod 2N).
        device: where the tables and the operands lie.
        fuse: compile the steps between matrix products into one kernel each (torch.compile: a C++ compiler on CPUs,
            Triton on GPUs; several seconds at the first use). Compared with the plain steps before use.

    Raises:
        ParameterError: another degree or modulus, or fused steps that differ from the plain ones.
    """

    def __init__(self, degree: int, prime: int, device: torch.device | str = "cpu", fuse: bool = False) -> None:
        if degree not in (1 << bits for bits in range(1, _DEGREE_BITS + 1)):
            allowed = f"powers of two, 2 to {1 << _DEGREE_BITS}"
            raise ParameterError(f"ring degree {degree} is not allowed (allowed: {allowed})")
        if not 0 < prime < 1 << _PRIME_BITS or prime % (2 * degree) != 1:
            allowed = f"primes below 2^{_PRIME_BITS} that are 1 modulo {2 * degree}"
            raise ParameterError(f"modulus {prime} is not allowed (allowed: {allowed})")
        self.degree, self.prime, self.device = degree, prime, torch.device(device)
        self._columns = columns = 1 << (degree.bit_length() - 1) // 2
        self._rows = rows = degree // columns
        root = _primitive_root(degree, prime)
        a, b, c, e = (np.arange(size, dtype=np.int64) for size in (columns, rows, columns, rows))
        first = columns * b[None, :] * (2 * e[:, None] + 1)
        second = a[None, None, :] * (2 * (e[:, None, None] + rows * c[None, :, None]) + 1)
        forward = _powers(degree, prime, root, 1)
        backward = _powers(degree, prime, pow(root, -1, prime), 1)
        scaled = _powers(degree, prime, pow(root, -1, prime), pow(degree, -1, prime))
        order = 2 * degree
        self._first = self._matrix(forward, first % order)
        self._second = self._matrix(forward, second % order)
        self._second_back = self._matrix(scaled, second.transpose(0, 2, 1) % order)
        self._first_back = self._matrix(backward, first.T % order)
        self._join: Callable[..., torch.Tensor] = join
        self._split: Callable[..., torch.Tensor] = split
        if fuse:
            self._join, self._split = _compiled()
            with torch.inference_mode():  # as in use: the mode is part of what a compiled step depends on
                self._check_fused()

    def _matrix(self, powers: list[int], exponents: IntArray) -> torch.Tensor:
        """Limbs of roots [..., m, n] for two limbs of data: float64 [..., 3·m, 2·n]."""
        sides = []
        for weight in (1, 1 << _HIGH):
            table = [power * weight % self.prime for power in powers]
            values = np.array([v - self.prime if 2 * v > self.prime else v for v in table], dtype=np.int64)
            roots = torch.from_numpy(values[exponents])
            side = torch.empty((3, *roots.shape), dtype=torch.float64)
            balanced_limbs(roots, _LOW, side.unbind(0))
            sides.append(side)
        joined = torch.cat(sides, dim=-1).movedim(0, -3)
        return joined.reshape(*joined.shape[:-3], -1, joined.shape[-1]).contiguous().to(self.device)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Transform of lazy coefficients int64 [N, rows]: lazy, int64 [N, rows]."""
        return self._second_step(self._first @ self._split(values.reshape(1, -1), _HIGH, 2).view(2 * self._rows, -1))

    def forward_small(self, values: torch.Tensor) -> torch.Tensor:
        """Transform of integers float64 [N, rows] within ±2^26: lazy, int64 [N, rows]."""
        return self._second_step(self._first[:, : self._rows] @ values.reshape(self._rows, -1))

    def _second_step(self, sums: torch.Tensor) -> torch.Tensor:
        return self._batched(self._second, self._join(sums.view(1, 3, -1), _LOW, self.prime))

    def _batched(self, matrix: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The step with its own matrix for every e: lazy int64, B·A·rows elements, to lazy int64 [N, rows]."""
        data = self._split(values.view(self._rows, -1), _HIGH, 2)
        sums = torch.bmm(matrix, data.view(self._rows, 2 * self._columns, -1))
        return self._join(sums.view(self._rows, 3, -1), _LOW, self.prime).view(self.degree, -1)

    def inverse(self, values: torch.Tensor) -> torch.Tensor:
        """Lazy coefficients int64 [N, rows] of a lazy transform int64 [N, rows]."""
        half = self._batched(self._second_back, values.contiguous())
        sums = self._first_back @ self._split(half.view(1, -1), _HIGH, 2).view(2 * self._rows, -1)
        return self._join(sums.view(1, 3, -1), _LOW, self.prime).view(self.degree, -1)

    def split_factor(self, values: torch.Tensor) -> torch.Tensor:
        """Lazy residues int64 [N, T, M] as the second factor of `multiply`: int32 [N, T, 2, M], 8 bytes per residue."""
        residues = self.canonical(values)
        centred = torch.where(residues > self.prime // 2, residues - self.prime, residues)
        degree, terms, count = values.shape
        factor = torch.empty(degree, terms, 2, count, dtype=torch.int32, device=self.device)
        balanced_limbs(centred, _HIGH, factor.unbind(2))
        return factor

    def multiply(self, values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Pointwise sums of products Σ_T values·factor: lazy int64 [n, R, T] and int32 [n, T, 2, M] to lazy [n, R, M].

        T is at most `MAX_TERMS`, n any part of the transform. The factor is taken from `split_factor`.
        """
        degree, requests, terms = values.shape
        data = self._split(values.view(degree, -1), _LOW, 3).view(degree, 3 * requests, terms)
        sums = torch.bmm(data, factor.double().view(degree, terms, -1))
        halves = self._join(sums.view(degree, 3, -1), _LOW, self.prime)
        total = self._join(halves.view(degree * requests, 2, -1), _HIGH, self.prime)
        return total.view(degree, requests, -1)

    def add(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Sum of lazy residues, lazy; `left` is overwritten."""
        total = left.add_(right)
        return total.sub_(total.double().mul_(1.0 / self.prime).long(), alpha=self.prime)

    def canonical(self, values: torch.Tensor) -> torch.Tensor:
        """Any int64 as residues in [0, q)."""
        return torch.remainder(values, self.prime)

    def _check_fused(self) -> None:
        """Raise unless the compiled steps give what the plain ones give, at the edges of their ranges too."""
        generator = torch.Generator().manual_seed(0)
        for outer in (1, 64):
            values = torch.randint(-(1 << 52), 1 << 52, (outer, 3, 67), generator=generator)
            values[0, 0], values[0, 1] = 1 << 52, -(1 << 52)
            values = values.to(self.device)
            same = self._congruent(values.double(), _LOW)
            same &= self._congruent(values[:, :2].contiguous(), _HIGH)
            for bits, count in ((_HIGH, 2), (_LOW, 3)):
                flat = values.view(outer, -1)
                same &= torch.equal(self._split(flat, bits, count), split(flat, bits, count))
            if not same:
                raise ParameterError("fuse is not allowed here: this compiler's kernels give other numbers")

    def _congruent(self, sums: torch.Tensor, bits: int) -> bool:
        """Whether fused and plain sums agree; another rounding of the quotient is harmless near zero."""
        fused, plain = self._join(sums, bits, self.prime), join(sums, bits, self.prime)
        near = int(fused.abs().max()) <= 1.04 * self.prime
        return near and torch.equal(self.canonical(fused), self.canonical(plain))


@lru_cache(maxsize=1)
def _compiled() -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    return torch.compile(join, dynamic=True), torch.compile(split_at_once, dynamic=True)


def _primitive_root(degree: int, prime: int) -> int:
    """A root of unity of order 2N: its N-th power is -1.

    Raises:
        ParameterError: there is none, so the modulus is no prime.
    """
    for base in range(2, min(prime, 1000)):
        root = pow(base, (prime - 1) // (2 * degree), prime)
        if pow(root, degree, prime) == prime - 1:
            return root
    raise ParameterError(f"no root of unity of order {2 * degree} modulo {prime}")


def _powers(degree: int, prime: int, root: int, start: int) -> list[int]:
    """start·root^i modulo q for i < 2N."""
    powers = [start]
    for _ in range(2 * degree - 1):
        powers.append(powers[-1] * root % prime)
    return powers
