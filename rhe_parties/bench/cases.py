"""The ways to serve a head that the benchmark compares, each with the host's work as one call.

`ours` is the encrypted head of this package; `plain` no protection; `tenseal-dot` and `tenseal-square` the paper's
way (arXiv 2505.14323), one CKKS vector per class or hidden unit; `encrypted-input` what other frameworks offer, the
client's features encrypted and the head plain; `return-features` no head at the host at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from rhe_parties.bench.inputs import BenchInputs
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import HeadEvaluator, KeyCustody, make_custody, make_encryptor, make_evaluator
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["CASES", "LEARNS", "Case", "Sizes", "make_case"]

LEARNS = {
    "ours": "host: inputs; key holder: logits",
    "plain": "host: inputs, the head, logits",
    "tenseal-dot": "host: inputs; key holder: logits, partial sums",
    "tenseal-square": "host: inputs; key holder: logits",
    "encrypted-input": "host: the head; client: logits",
    "return-features": "host: inputs; key holder: the head, features",
}


@dataclass(frozen=True)
class Sizes:
    """Bytes of public and evaluation keys, encrypted head, one request (features, for the head alone) and one reply."""

    key_bytes: int
    head_bytes: int
    request_bytes: int
    reply_bytes: int
    batch_reply_bytes: float
    """Reply per prediction when a whole batch is asked for at once."""


class Case(ABC):
    """One way to serve the head of `inputs`; `batch` inputs are asked for at once in throughput."""

    def __init__(self, inputs: BenchInputs, batch: int) -> None:
        self.inputs, self.batch = inputs, batch
        self.layers = inputs.layers
        weight = self.layers[-1][0]
        self.classes = int(weight.shape[0])
        self.features = int(inputs.features.shape[1])
        self.hidden = tuple(int(w.shape[0]) for w, _ in self.layers[:-1])

    @abstractmethod
    def one(self, row: FloatArray) -> int:
        """The host's whole work after the backbone for features [1, D]; returns the bytes of its reply."""

    def many(self, rows: FloatArray) -> int:
        """The host's work for features [B, D]; returns the bytes of its replies."""
        return sum(self.one(rows[i : i + 1]) for i in range(len(rows)))

    @abstractmethod
    def logits(self, rows: FloatArray) -> AnyArray:
        """Real logits [n, K] as the receiver gets them."""

    @abstractmethod
    def sizes(self) -> Sizes:
        """Bytes on the wire."""


class _Encrypted(Case):
    """A head encrypted under a plan; `ours` has one plan for single inputs and one for batches."""

    def __init__(self, inputs: BenchInputs, batch: int, scheme: str | None) -> None:
        super().__init__(inputs, batch)
        self.single = self._serve(self._plan(scheme, 1))
        self.batched = self.single if scheme == "ckks" else self._serve(self._plan(scheme, batch))

    def _plan(self, scheme: str | None, batch: int) -> HeadPlan:
        norm = self.inputs.feature_norm
        return plan_head(self.features, self.classes, self.hidden, batch, scheme=scheme, feature_norm=norm)

    def _serve(self, plan: HeadPlan) -> tuple[HeadPlan, KeyCustody, HeadEvaluator, float, int]:
        custody = make_custody(plan)
        *before, (weight, bias) = self.layers
        head, unit = make_encryptor(custody.public).encrypt(weight, bias, before)
        return plan, custody, make_evaluator(custody.public, head), unit, sum(map(len, head.ciphertexts))

    def one(self, row: FloatArray) -> int:
        return sum(map(len, self.single[2].evaluate(row)[0].ciphertexts))

    def many(self, rows: FloatArray) -> int:
        return sum(map(len, self.batched[2].evaluate(rows)[0].ciphertexts))

    def logits(self, rows: FloatArray) -> AnyArray:
        _, custody, evaluator, unit, _ = self.single
        found = [custody.decrypt(evaluator.evaluate(rows[i : i + 64])[0]) for i in range(0, len(rows), 64)]
        return np.concatenate(found) * unit

    def sizes(self) -> Sizes:
        _, custody, _, _, head_bytes = self.single
        public = custody.public
        rows = self.inputs.features[: self.batch]
        # A batch of the rotated scheme has as many replies as inputs; no need to wait for them.
        batched = self.many(rows) / len(rows) if self.batched is not self.single else self.one(rows[:1])
        keys = len(public.public_key) + len(public.evaluation_keys)
        return Sizes(keys, head_bytes, 4 * self.features, self.one(rows[:1]), batched)


class Ours(_Encrypted):
    """Coefficient-packed BFV, or the levelled path where the planner finds that cheaper."""

    def __init__(self, inputs: BenchInputs, batch: int) -> None:
        super().__init__(inputs, batch, None)


class TensealDot(_Encrypted):
    """The paper's way for a linear head, or for square layers."""

    def __init__(self, inputs: BenchInputs, batch: int) -> None:
        super().__init__(inputs, batch, "ckks")


class TensealSquare(Case):
    """The paper's way with square layers: a CKKS vector per unit of the first layer, ciphertext products after it."""

    def __init__(self, inputs: BenchInputs, batch: int) -> None:
        super().__init__(inputs, batch)
        self._context = _levelled_context(len(self.hidden))
        first, offset = self.layers[0]
        rows = np.concatenate([first, offset[:, None]], axis=1).astype(np.float64)
        self._first = [self._vector(row) for row in rows]
        self._later = [
            ([[self._vector([value]) for value in row] for row in weight], [self._vector([value]) for value in bias])
            for weight, bias in self.layers[1:]
        ]

    def _vector(self, values: AnyArray | list[float]) -> Any:
        import tenseal

        return tenseal.ckks_vector(self._context, np.asarray(values, dtype=np.float64).tolist())

    def _apply(self, row: FloatArray) -> list[Any]:
        x = [*row.ravel().astype(np.float64).tolist(), 1.0]
        values = [vector.dot(x) for vector in self._first]
        for weights, offsets in self._later:
            squares = [value.square() for value in values]
            values = _layer(squares, weights, offsets)
        return values

    def one(self, row: FloatArray) -> int:
        return sum(len(value.serialize()) for value in self._apply(row))

    def logits(self, rows: FloatArray) -> AnyArray:
        found = [[value.decrypt()[0] for value in self._apply(rows[i : i + 1])] for i in range(len(rows))]
        return np.array(found)

    def sizes(self) -> Sizes:
        later = [v for weights, offsets in self._later for v in (*(w for line in weights for w in line), *offsets)]
        head = sum(len(vector.serialize()) for vector in (*self._first, *later))
        reply = self.one(self.inputs.features[:1])
        return Sizes(_key_bytes(self._context), head, 4 * self.features, reply, float(reply))


class Plain(Case):
    """A float32 head in the clear."""

    def one(self, row: FloatArray) -> int:
        return self.many(row)

    def many(self, rows: FloatArray) -> int:
        return len(self._float32(rows).tobytes())

    def _float32(self, rows: FloatArray) -> FloatArray:
        values = rows
        for index, (weight, bias) in enumerate(self.layers):
            values = values @ weight.T + bias
            if index + 1 < len(self.layers):
                values = values * values
        return values

    def logits(self, rows: FloatArray) -> AnyArray:
        return self._float32(rows)

    def sizes(self) -> Sizes:
        head = sum(w.nbytes + b.nbytes for w, b in self.layers)
        return Sizes(0, head, 4 * self.features, 4 * self.classes, 4.0 * self.classes)


class ReturnFeatures(Plain):
    """The host sends the features back; the key holder applies a plain head of its own."""

    def many(self, rows: FloatArray) -> int:
        return len(rows.tobytes())

    def sizes(self) -> Sizes:
        return Sizes(0, 0, 4 * self.features, 4 * self.features, 4.0 * self.features)


class EncryptedInput(Case):
    """Conventional HE with TenSEAL: the client encrypts its features, the host multiplies them by plain weights."""

    def __init__(self, inputs: BenchInputs, batch: int) -> None:
        super().__init__(inputs, batch)
        self._context = _levelled_context(len(self.hidden))
        self._weights = [w.astype(np.float64).tolist() for w, _ in self.layers]
        self._biases = [b.astype(np.float64).tolist() for _, b in self.layers]
        self._encrypted: dict[bytes, Any] = {}

    def _request(self, row: FloatArray) -> Any:
        """The client's encryption, outside the host's time: made once per input."""
        import tenseal

        key = row.tobytes()
        if key not in self._encrypted:
            values = row.ravel().astype(np.float64).tolist()
            self._encrypted[key] = tenseal.ckks_vector(self._context, values)
        return self._encrypted[key]

    def _apply(self, vector: Any) -> list[Any]:
        """One ciphertext per output: rotated dot products first, then sums of scaled squares."""
        values = [vector.dot(row) + offset for row, offset in zip(self._weights[0], self._biases[0], strict=True)]
        for rows, offsets in zip(self._weights[1:], self._biases[1:], strict=True):
            squares = [value.square() for value in values]
            values = _layer(squares, rows, offsets)
        return values

    def one(self, row: FloatArray) -> int:
        return sum(len(value.serialize()) for value in self._apply(self._request(row)))

    def logits(self, rows: FloatArray) -> AnyArray:
        found = [[v.decrypt()[0] for v in self._apply(self._request(rows[i : i + 1]))] for i in range(len(rows))]
        return np.array(found)

    def sizes(self) -> Sizes:
        row = self.inputs.features[:1]
        head = sum(w.nbytes + b.nbytes for w, b in self.layers)
        reply = self.one(row)
        return Sizes(_key_bytes(self._context), head, len(self._request(row).serialize()), reply, float(reply))


def _layer(values: list[Any], weights: Any, offsets: Any) -> list[Any]:
    """Weighted sums of ciphertexts, one per output; weights and offsets are plain or encrypted."""
    sums = []
    for line, offset in zip(weights, offsets, strict=True):
        total = values[0] * line[0]
        for value, weight in zip(values[1:], line[1:], strict=True):
            total = total + value * weight
        sums.append(total + offset)
    return sums


def _levelled_context(squares: int) -> Any:
    """TenSEAL's context for one dot product and `squares` squares with a layer behind each, at 128-bit security."""
    import tenseal

    degree, middle = (8192, 1) if squares == 0 else (16384, 1 + 2 * squares)
    bits = [60, *[40] * middle, 60]
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=bits, n_threads=1)
    context.global_scale = 2.0**40
    context.generate_galois_keys()
    return context


def _key_bytes(context: Any) -> int:
    return len(context.serialize(save_secret_key=False))


CASES: dict[str, type[Case]] = {
    "ours": Ours,
    "plain": Plain,
    "tenseal-dot": TensealDot,
    "tenseal-square": TensealSquare,
    "encrypted-input": EncryptedInput,
    "return-features": ReturnFeatures,
}


def make_case(name: str, inputs: BenchInputs, batch: int) -> Case:
    """Set up a case: keys, encryption, installation."""
    return CASES[name](inputs, batch)
