"""The evaluator in torch, on CPU or GPU: features stay on the device from the backbone to the encrypted reply.

Needs torch and numpy only. The same operations run on every device: quantise, lift, pack, transform, multiply,
transform back, cut and pack bytes; then one copy to the host. The number of operations depends on neither the batch
nor the head, as long as the temporaries fit into the memory limit; beyond it the work is cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from rhe_parties.errors import FailureCode, NumericError, SchemeError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.torch_ring import MAX_TERMS, TorchRing
from rhe_parties.types import AnyArray, IntArray

__all__ = ["MEMORY_LIMIT", "TorchEvaluator"]

MEMORY_LIMIT = {"cpu": 1 << 26, "cuda": 1 << 31}
"""Bytes of temporaries per call, by type of device; small on CPUs, where fresh memory costs more than more steps."""
# Largest sums of live temporaries per coefficient of an input polynomial, of an output, of the head's
# factor, and of the head while it is transformed.
_INPUT_BYTES, _OUTPUT_BYTES, _FACTOR_BYTES, _SETUP_BYTES = 120, 176, 16, 160
_TRAILER = 16


@dataclass(frozen=True, slots=True)
class _Blocks:
    """How many requests, feature tiles, coefficients (in products) and class tiles (in replies) are handled at once."""

    requests: int
    tiles: int
    coefficients: int
    classes: int


class TorchEvaluator:
    """Plain × cipher products of an encrypted head; see `evaluators.Evaluator`.

    Args:
        plan: of scheme `bfv`.
        residues: the encrypted head, uint64 [class tiles, feature tiles, 2, N], each below q.
        device: torch's name of the device that computes and that holds the head (8 bytes per residue).
        memory_limit: bytes that temporaries may take, or None for `MEMORY_LIMIT`. One request polynomial with one
            tile and one class tile is the smallest step, whatever the limit. Features, twice in 8 bytes each, and
            replies come on top.
        fuse: compile the steps between matrix products; see `TorchRing`.

    Raises:
        SchemeError: (BAD_CIPHERTEXT) the head has another shape than planned.
        ParameterError: a ring that is not supported, or fused steps that are not exact here.
    """

    def __init__(
        self,
        plan: HeadPlan,
        residues: npt.NDArray[np.uint64],
        device: torch.device | str = "cpu",
        memory_limit: int | None = None,
        fuse: bool = False,
    ) -> None:
        expected = (plan.class_tiles, plan.feature_tiles, 2, plan.degree)
        if residues.shape != expected:
            text = f"a head of shape {list(residues.shape)} is not allowed (allowed: {list(expected)})"
            raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
        self._plan = plan
        self.device = torch.device(device)
        self._limit = memory_limit or MEMORY_LIMIT.get(self.device.type, MEMORY_LIMIT["cpu"])
        self._ring = TorchRing(plan.degree, plan.prime, self.device, fuse)
        grid = plan.tile_width * np.arange(plan.tile_classes) + plan.tile_width - 1
        positions = plan.layout.stride * np.arange(plan.batch)[:, None] + grid
        self._positions = torch.from_numpy(positions.ravel().astype(np.int64)).to(self.device)
        self._checks = torch.from_numpy(np.asarray(plan.check_positions, dtype=np.int64)).to(self.device)
        self._pairs = self._lift_table() if plan.hidden else None
        with torch.inference_mode():
            self._head = self._transformed(residues)

    def evaluate(self, features: AnyArray, masks: IntArray) -> tuple[list[bytes], int]:
        """See `evaluators.Evaluator.evaluate`."""
        array = np.ascontiguousarray(features)
        return self.evaluate_tensor(torch.from_numpy(array if array.flags.writeable else array.copy()), masks)

    def evaluate_tensor(self, features: torch.Tensor, masks: IntArray) -> tuple[list[bytes], int]:
        """Replies without checksum and the number of saturated inputs, for features that are on the device already.

        Args:
            features: real numbers [B, D] on the evaluator's device (others are moved there).
            masks: int64 [requests, class tiles, check_count], uniform below t.

        Raises:
            NumericError: BAD_TENSOR for another shape or type, BAD_VALUE for NaN or infinite features.
        """
        plan = self._plan
        if features.ndim != 2 or features.shape[1] != plan.features or features.is_complex():
            given = f"{features.dtype} {list(features.shape)}"
            text = f"features {given} are not allowed (allowed: real numbers [B, {plan.features}])"
            raise NumericError(text, FailureCode.BAD_TENSOR)
        count = features.shape[0]
        if count == 0:
            return [], 0
        requests = -(-count // plan.batch)
        expected = (requests, plan.class_tiles, len(self._checks))
        if masks.shape != expected:
            text = f"masks of shape {list(masks.shape)} are not allowed (allowed: {list(expected)})"
            raise NumericError(text, FailureCode.BAD_TENSOR)
        with torch.inference_mode():
            lifted = torch.from_numpy(lift_masks(masks, plan.prime, plan.plain_modulus)).to(self.device)
            inputs, counts = self._quantised(features.to(self.device), requests)
            wire = self._all_replies(inputs, counts, lifted)
            host = wire.cpu().numpy()
        saturated, bad = host[-_TRAILER:].view("<i8").tolist()
        if bad:
            raise NumericError(f"among {count} inputs there are features that are NaN or infinite")
        rows = host[:-_TRAILER].reshape(requests, plan.class_tiles, -1)
        return self._as_bytes(rows, count), saturated

    def _transformed(self, residues: npt.NDArray[np.uint64]) -> torch.Tensor:
        """The head as limbs in the transform domain, int32 [N, feature tiles, 2, class tiles · 2]."""
        plan, ring = self._plan, self._ring
        polynomials = 2 * plan.class_tiles
        shape = (plan.degree, plan.feature_tiles, 2, polynomials)
        head = torch.empty(shape, dtype=torch.int32, device=self.device)
        rows = max(2, self._limit // (plan.degree * _SETUP_BYTES))
        step = min(plan.class_tiles, rows // 2)
        tiles = max(1, rows // (2 * step))
        for first in range(0, plan.class_tiles, step):
            for start in range(0, plan.feature_tiles, tiles):
                part = residues[first : first + step, start : start + tiles].astype(np.int64).transpose(3, 1, 0, 2)
                values = torch.from_numpy(part.reshape(plan.degree, -1)).to(self.device)
                transformed = ring.forward(values).view(plan.degree, part.shape[1], -1)
                block = head[:, start : start + tiles, :, 2 * first : 2 * (first + step)]
                block.copy_(ring.split_factor(transformed))
        return head

    def _quantised(self, features: torch.Tensor, requests: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Integers and constants of all requests, and int64 [2]: saturated inputs, and 1 if a feature is not finite.

        The integers are float64 [R·b, columns], zero where a request has fewer inputs and in the last columns:
        [u ; 1 ; 0 ...] up to whole tiles, or [u ; 2^f ; 1 ; 0] for `_lift_table`.
        """
        plan = self._plan
        count, size = features.shape
        limit = 1 << plan.feature_bits
        constants = (limit, 1) if plan.hidden else (1,)
        width = size + 3 if plan.hidden else plan.feature_tiles * plan.tile_width
        inputs = torch.zeros(requests * plan.batch, width, dtype=torch.float64, device=self.device)
        for place, constant in enumerate(constants):
            inputs[:count, size + place] = constant
        values = inputs[:count, :size]
        values.copy_(features)
        bad = torch.isfinite(torch.linalg.vector_norm(values, ord=torch.inf)).logical_not_()
        values.mul_(limit / plan.feature_norm).round_().clamp_(-2 * limit, 2 * limit)
        squares = values.long().square_().sum(dim=1, keepdim=True)
        long = squares > limit * limit
        # The limit is a power of two, so a reciprocal times it is the correctly rounded division.
        factors = squares.double().sqrt_().reciprocal_().mul_(limit).masked_fill_(~long, 1.0)
        values.mul_(factors).trunc_()
        return inputs, torch.stack([long.sum(), bad])

    def _lift_table(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of the two factors of every column among [u ; 2^f ; 1 ; 0], int64 [feature tiles · w] each.

        u_j itself and the constant 1 come as products by 2^f, which the division by 2^f takes away again.
        """
        plan, size = self._plan, self._plan.features
        left, right = np.triu_indices(size)
        padding = np.full(plan.feature_tiles * plan.tile_width - plan.columns, size + 2)
        first = np.concatenate([left, np.arange(size), [size + 1], padding])
        second = np.concatenate([right, np.full(size + 1, size), padding])
        return torch.from_numpy(first).to(self.device), torch.from_numpy(second).to(self.device)

    def _packed(self, inputs: torch.Tensor, first: int, tiles: int) -> torch.Tensor:
        """Request polynomials of the tiles from `first` on, float64 [N, R · tiles], of inputs [R·b, columns]."""
        plan = self._plan
        width, stride = plan.tile_width, plan.layout.stride
        block = slice(first * width, (first + tiles) * width)
        if self._pairs is None:
            columns = inputs[:, block]
        else:
            # Products are below 2^48 and the division is by a power of two: exact, so this is (u·v + 2^(f-1)) >> f.
            limit = 1 << plan.feature_bits
            left, right = (index[block] for index in self._pairs)
            columns = inputs[:, left].mul_(inputs[:, right]).add_(limit / 2).mul_(1 / limit).floor_()
        requests = inputs.shape[0] // plan.batch
        packed = torch.zeros(plan.degree, requests, tiles, dtype=torch.float64, device=self.device)
        grid = packed[: plan.batch * stride].view(plan.batch, stride, requests, tiles)
        grid[:, :width] = columns.reshape(requests, plan.batch, tiles, width).permute(1, 3, 0, 2)
        return packed.view(plan.degree, requests * tiles)

    def _blocks(self, requests: int) -> _Blocks:
        """Block sizes that keep the temporaries below the limit.

        Transforms of inputs or outputs may take all of it. While products are made, the transformed inputs take a
        quarter and the sums an eighth at most, so half is left for the head in float64 and for limbs of the sums.
        """
        plan, limit = self._plan, self._limit
        polynomials = 2 * plan.class_tiles
        tiles = min(plan.feature_tiles, MAX_TERMS, max(1, limit // (plan.degree * _INPUT_BYTES)))
        by_input = limit // (plan.degree * tiles * _INPUT_BYTES)
        by_sums = limit // (8 * plan.degree * polynomials * 8)
        block = max(1, min(requests, by_input, by_sums))
        each = polynomials * (tiles * _FACTOR_BYTES + block * _OUTPUT_BYTES)
        coefficients = max(1, min(plan.degree, limit // (2 * each)))
        classes = max(1, min(plan.class_tiles, limit // (2 * plan.degree * block * _OUTPUT_BYTES)))
        return _Blocks(block, tiles, coefficients, classes)

    def _all_replies(self, inputs: torch.Tensor, counts: torch.Tensor, lifted: torch.Tensor) -> torch.Tensor:
        """The wire form of all replies as if every request and class tile were full, and the counts: uint8 [n]."""
        plan, requests = self._plan, lifted.shape[0]
        blocks = self._blocks(requests)
        length = (plan.degree + len(self._positions) + len(self._checks)) * plan.word_bytes
        size = requests * plan.class_tiles * length
        wire = torch.empty(size + _TRAILER, dtype=torch.uint8, device=self.device)
        replies = wire[:size].view(requests, plan.class_tiles, -1, plan.word_bytes)
        for start in range(0, requests, blocks.requests):
            block = slice(start, min(start + blocks.requests, requests))
            products = self._products(inputs[block.start * plan.batch : block.stop * plan.batch], blocks)
            for first in range(0, plan.class_tiles, blocks.classes):
                tiles = slice(first, first + blocks.classes)
                values = self._values(products[:, :, 2 * tiles.start : 2 * tiles.stop], lifted[block, tiles])
                replies[block, tiles] = values.view(torch.uint8).view(*values.shape, 8)[..., : plan.word_bytes]
        wire[size:] = counts.view(torch.uint8)
        return wire

    def _products(self, inputs: torch.Tensor, blocks: _Blocks) -> torch.Tensor:
        """Σ over feature tiles of head · request, in the transform domain: lazy int64 [N, R, class tiles · 2]."""
        plan, ring = self._plan, self._ring
        requests, polynomials = inputs.shape[0] // plan.batch, self._head.shape[3]
        shape = (plan.degree, requests, polynomials)
        sums = torch.empty(shape, dtype=torch.int64, device=self.device)
        for first in range(0, plan.feature_tiles, blocks.tiles):
            tiles = min(blocks.tiles, plan.feature_tiles - first)
            data = ring.forward_small(self._packed(inputs, first, tiles)).view(plan.degree, requests, tiles)
            for start in range(0, plan.degree, blocks.coefficients):
                part = slice(start, start + blocks.coefficients)
                product = ring.multiply(data[part], self._head[part, first : first + tiles])
                if first == 0:
                    sums[part] = product
                else:
                    ring.add(sums[part], product)
        return sums

    def _values(self, products: torch.Tensor, lifted: torch.Tensor) -> torch.Tensor:
        """What goes on the wire, before bytes are cut: int64 [R, class tiles, N + b·c + checks]."""
        plan, ring = self._plan, self._ring
        degree, requests, polynomials = products.shape
        coefficients = ring.canonical(ring.inverse(products.reshape(degree, -1)))
        grid = coefficients.view(degree, requests, polynomials // 2, 2).permute(1, 2, 3, 0)
        logits, checks = len(self._positions), len(self._checks)
        shape = (requests, polynomials // 2, degree + logits + checks)
        values = torch.empty(shape, dtype=torch.int64, device=self.device)
        values[..., :degree] = grid[:, :, 1]
        values[..., degree : degree + logits] = grid[:, :, 0].index_select(2, self._positions)
        masked = grid[:, :, 0].index_select(2, self._checks).add_(lifted)
        values[..., degree + logits :] = ring.canonical(masked)
        return values.bitwise_right_shift_(plan.reply_shift)

    def _as_bytes(self, rows: npt.NDArray[np.uint8], count: int) -> list[bytes]:
        """Replies of full rows uint8 [R, class tiles, bytes], without the logits of absent inputs and classes."""
        plan = self._plan
        replies = []
        for request, row in enumerate(rows):
            inputs = min(plan.batch, count - request * plan.batch)
            for tile, reply in enumerate(row):
                classes = min(plan.tile_classes, plan.classes - tile * plan.tile_classes)
                if inputs == plan.batch and classes == plan.tile_classes:
                    replies.append(reply.tobytes())
                    continue
                words = reply.reshape(-1, plan.word_bytes)
                ends = plan.degree, plan.degree + len(self._positions)
                logits = words[ends[0] : ends[1]].reshape(plan.batch, plan.tile_classes, -1)[:inputs, :classes]
                replies.append(words[: ends[0]].tobytes() + logits.tobytes() + words[ends[1] :].tobytes())
        return replies


def lift_masks(masks: IntArray, prime: int, modulus: int) -> IntArray:
    """round(q·mask/t) = floor((q·mask + t/2) / t), exactly, for masks in [0, t), t = 2^s ≤ 2^45 and q < 2^54.

    q is cut into three limbs of 18 bits; each step stays below (2^18 - 1)·(2^45 - 1) + 2^45 < 2^63.
    """
    shift, step = modulus.bit_length() - 1, 18
    low = (prime & 0x3FFFF) * masks + (modulus >> 1)
    middle = (prime >> step & 0x3FFFF) * masks + (low >> step)
    high = (prime >> 2 * step) * masks + (middle >> step)
    rest = (middle & 0x3FFFF) << step | (low & 0x3FFFF)
    if shift >= 2 * step:
        return high >> (shift - 2 * step)
    return (high << (2 * step - shift)) + (rest >> shift)
