"""Heads of two and three layers with square activation under levelled CKKS (SEAL through TenSEAL's `sealapi`).

The head's weights are encrypted, features are plain; squares and later layers are products of ciphertexts, so the
host needs relinearisation and Galois keys. The packing is that of `levelled_layout`.

Scales: features are divided by their public norm bound R, every hidden unit by the largest value that an input
within the bound can give it (Cauchy-Schwarz: ‖w_i‖·R + |a_i|), and the logits by the largest that follows from their
quadratic form; so hidden values and logits lie in [-1, 1] and no product can leave the modulus. The last divisor,
on a coarse grid, goes to the key holder, the others are inside the encrypted weights.

In a reply every slot without a logit holds zero or a partial sum; the host adds a fresh random number to the
latter, 2^16 times larger than a logit. As with all of CKKS, the errors that decryption shows depend on the
secret key, so only classes should be released (Li, Micciancio 2021).
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as sealapi

from rhe_parties.errors import FailureCode, NoiseError, SchemeError
from rhe_parties.he import sealio
from rhe_parties.he.levelled_layout import LevelledLayout, levelled_layout, scale_bits
from rhe_parties.he.levelled_weights import packed_layers, scaled_layers
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.quantise import Float64Array, Layer, checked_layers, normed_features
from rhe_parties.he.scheme import HeadCiphertexts, LogitCiphertexts, NoCopies, PublicMaterial, public_material
from rhe_parties.he.seal_format import CIPHERTEXT_OVERHEAD
from rhe_parties.types import AnyArray

__all__ = [
    "LevelledCustody",
    "LevelledEncryptor",
    "LevelledEvaluator",
    "custody_of",
    "fresh_keys",
    "make_encryptor",
    "make_evaluator",
]

_LARGEST_LOGIT = 1.01
"""Honest logits are at most 1 plus an approximation error far below this."""
_LARGEST_IMAGINARY = 2.0**-6
"""Honest slots are real up to that error; under a foreign key their imaginary parts reach thousands."""


class _Chain:
    """Context, scale and levels of a plan; the scales that make every layer end at 2^bits again."""

    def __init__(self, plan: HeadPlan) -> None:
        self.plan = plan
        self.context = sealio.plan_context(plan)
        self.encoder = sealapi.CKKSEncoder(self.context)
        self.layout: LevelledLayout = levelled_layout(plan.features, plan.classes, plan.hidden, plan.degree)
        self.primes = plan.coeff_modulus[:-1]
        self.scale = 2.0 ** scale_bits(plan.coeff_modulus)
        self.marks: dict[int, list[int]] = {}
        data = self.context.first_context_data()
        for level in range(len(self.primes), 0, -1):
            self.marks[level] = list(data.parms_id())
            data = data.next_context_data() if level > 1 else data

    def weight_scale(self, level: int) -> float:
        """Scale of the weights of a later layer at `level` primes, behind a square that was rescaled to that level."""
        square = self.scale * self.scale / self.primes[level]
        return self.scale * self.primes[level - 1] / square

    def slots(self) -> list[tuple[int, float]]:
        """(level, scale) of each ciphertext of a head, in their order."""
        layout, top = self.layout, len(self.primes)
        out = [(top, self.scale)] * layout.input_tiles
        if layout.run:
            out += [(top - 2, self.weight_scale(top - 2)), (top - 3, self.scale)]
        return out + [(2, self.weight_scale(2)), (1, self.scale)] * layout.class_tiles

    def encode(self, values: AnyArray, level: int, scale: float) -> Any:
        """A SEAL plaintext of real slots [N/2]."""
        plain = sealapi.Plaintext()
        self.encoder.encode(values.tolist(), self.marks[level], scale, plain)
        return plain

    def load(self, data: bytes, level: int, scale: float) -> Any:
        """A checked ciphertext.

        Raises:
            SchemeError: BAD_CIPHERTEXT for damaged bytes, another level or another scale.
        """
        value = sealio.load_ciphertext(self.context, data, self.plan.degree, level, self.marks[level])
        given = float(value.scale)
        if not abs(given / scale - 1) < 1e-12:
            text = f"ciphertext has scale {given:g} (allowed: {scale:g})"
            raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
        value.scale = scale
        return value


def _rotation_elements(layout: LevelledLayout) -> list[int]:
    """Galois elements 3^step of all rotations (left, as SEAL counts them)."""
    steps = {*layout.dot_rotations, *layout.unit_rotations}
    return [pow(3, step, 2 * layout.degree) for step in sorted(steps)]


class LevelledCustody(NoCopies):
    """Key holder's side: the secret lives inside SEAL's decryptor, which has no way to read it out.

    Args:
        secret: SEAL's secret key; the caller keeps none.
        public: plan, public key, and relinearisation and Galois keys that belong to it.
    """

    __slots__ = ("__decryptor", "_chain", "_public")

    def __init__(self, secret: Any, public: PublicMaterial) -> None:
        self._chain = _Chain(public.plan)
        self.__decryptor = sealapi.Decryptor(self._chain.context, secret)
        self._public = public

    def __repr__(self) -> str:
        return f"LevelledCustody(fingerprint={self._public.fingerprint[:16]!r})"

    @property
    def public(self) -> PublicMaterial:
        """The plan, the public key, and relinearisation and Galois keys."""
        return self._public

    def decrypt(self, logits: LogitCiphertexts) -> npt.NDArray[np.float64]:
        """Approximate logits [B, K], within [-1, 1] up to the error; see `KeyCustody.decrypt`.

        A foreign key shows in the imaginary parts of the slots, which are all small under the right one.
        """
        plan, layout = self._public.plan, self._chain.layout
        expected = logits.batch * layout.class_tiles
        if isinstance(logits.batch, bool) or not isinstance(logits.batch, int) or logits.batch < 0:
            raise SchemeError(FailureCode.BAD_CIPHERTEXT, f"a reply for {str(logits.batch)[:40]} inputs is not allowed")
        if len(logits.ciphertexts) != expected:
            text = f"the reply has {len(logits.ciphertexts)} ciphertexts for {logits.batch} inputs"
            raise SchemeError(FailureCode.BAD_CIPHERTEXT, f"{text} (allowed: {expected})")
        tiles = [self._open(data) for data in logits.ciphertexts]
        if not tiles:
            return np.zeros((0, plan.classes))
        values = np.concatenate(tiles).reshape(logits.batch, -1)[:, : plan.classes]
        beyond = int((~(np.abs(values) <= _LARGEST_LOGIT)).sum())
        if beyond:
            _refuse(f"{beyond} of {values.size} logits lie beyond what any input can give")
        return values

    def _open(self, data: bytes) -> Float64Array:
        """The logits of one class tile [tile_classes]."""
        chain, layout = self._chain, self._chain.layout
        value, plain = chain.load(data, 1, chain.scale), sealapi.Plaintext()
        with sealio.guarded("decrypting a reply"):
            self.__decryptor.decrypt(value, plain)
            slots = np.array(chain.encoder.decode_complex(plain), dtype=np.complex128)
        if not np.abs(slots.imag).max() <= _LARGEST_IMAGINARY:
            _refuse("its slots are not real numbers")
        held = min(layout.tile_classes, self._public.plan.classes)
        return slots.real[: held * layout.class_step : layout.class_step].copy()


def _refuse(reason: str) -> None:
    text = f"{reason}: the reply was made for another key or tampered with"
    raise NoiseError(FailureCode.WRONG_KEY, text)


class LevelledEncryptor:
    """Data owner's side: every layer's weights, packed and encrypted at the level where they are used."""

    def __init__(self, public: PublicMaterial) -> None:
        self._public, plan = public, public.plan
        self._chain = _Chain(plan)
        key = sealio.load_public_key(self._chain.context, public.public_key, plan.degree, len(plan.coeff_modulus))
        self._encryptor = sealapi.Encryptor(self._chain.context, key)

    def encrypt(self, weight: AnyArray, bias: AnyArray, hidden: Sequence[Layer] = ()) -> tuple[HeadCiphertexts, float]:
        """See `HeadEncryptor.encrypt`."""
        plan, chain = self._public.plan, self._chain
        layers, unit = scaled_layers(plan, checked_layers(plan, weight, bias, hidden))
        grids = packed_layers(chain.layout, layers)
        data = [
            self._encrypt(chain.encode(grid, level, scale))
            for grid, (level, scale) in zip(grids, chain.slots(), strict=True)
        ]
        return HeadCiphertexts(tuple(data), self._public.fingerprint), unit

    def _encrypt(self, plain: Any) -> bytes:
        value = sealapi.Ciphertext(self._chain.context)
        self._encryptor.encrypt(plain, value)
        return sealio.with_checksum(sealio.to_bytes(value))


class LevelledEvaluator:
    """Host's side: products by levels, rotations, one reply ciphertext per class tile at the lowest level."""

    def __init__(self, public: PublicMaterial, head: HeadCiphertexts) -> None:
        self._chain = chain = _Chain(public.plan)
        self._evaluator = sealapi.Evaluator(chain.context)
        self._relinearisation, self._galois = _load_keys(chain, public.evaluation_keys)
        slots = chain.slots()
        if len(head.ciphertexts) != len(slots):
            text = f"the head has {len(head.ciphertexts)} ciphertexts (allowed: {len(slots)})"
            raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
        values = [chain.load(data, *slot) for data, slot in zip(head.ciphertexts, slots, strict=True)]
        tiles = chain.layout.input_tiles
        self._first, later = values[:tiles], values[tiles:]
        middle = 2 if chain.layout.run else 0
        self._middle, self._last = later[:middle], later[middle:]

    def evaluate(self, features: AnyArray) -> tuple[LogitCiphertexts, int]:
        """See `HeadEvaluator.evaluate`."""
        values, saturated = normed_features(self._chain.plan, features)
        columns = np.concatenate([values, np.ones((len(values), 1))], axis=1)
        replies: list[bytes] = []
        with sealio.guarded("evaluating the encrypted head", FailureCode.INTERNAL):
            for row in columns:
                replies += self._logits(row)
        return LogitCiphertexts(tuple(replies), len(values)), saturated

    def _logits(self, row: Float64Array) -> list[bytes]:
        """Replies for one input with its constant feature [D+1]."""
        layout, evaluator = self._chain.layout, self._evaluator
        value = self._square(self._dot(row))
        if layout.run:
            weight, bias = self._middle
            value = self._add_up(self._product(value, weight), layout.unit_rotations)
            evaluator.add_inplace(value, bias)
            value = self._square(value)
        replies = []
        for weight, bias in zip(self._last[::2], self._last[1::2], strict=True):
            steps = layout.run_rotations if layout.run else layout.unit_rotations
            logits = self._add_up(self._product(value, weight), steps)
            evaluator.add_inplace(logits, bias)
            if layout.block > 1 and not layout.run:
                evaluator.add_plain_inplace(logits, self._mask())
            replies.append(sealio.with_checksum(sealio.to_bytes(logits)))
        return replies

    def _dot(self, row: Float64Array) -> Any:
        """The hidden values before their square, repeated in every block."""
        chain, layout, top = self._chain, self._chain.layout, len(self._chain.primes)
        padded = np.zeros(layout.input_tiles * layout.blocks)
        padded[: len(row)] = row
        total = None
        for tile, part in zip(self._first, np.split(padded, layout.input_tiles), strict=True):
            plain = chain.encode(np.repeat(part, layout.block), top, float(chain.primes[-1]))
            if plain.is_zero():  # SEAL refuses a product that hides nothing
                continue
            product = sealapi.Ciphertext(chain.context)
            self._evaluator.multiply_plain(tile, plain, product)
            if total is None:
                total = product
            else:
                self._evaluator.add_inplace(total, product)
        return self._add_up(self._rescaled(total, chain.scale), layout.dot_rotations)

    def _square(self, value: Any) -> Any:
        self._evaluator.square_inplace(value)
        self._evaluator.relinearize_inplace(value, self._relinearisation)
        chain = self._chain
        dropped = chain.primes[value.coeff_modulus_size() - 1]
        return self._rescaled(value, chain.scale * chain.scale / dropped)

    def _product(self, value: Any, weight: Any) -> Any:
        product = sealapi.Ciphertext(self._chain.context)
        self._evaluator.multiply(value, weight, product)
        self._evaluator.relinearize_inplace(product, self._relinearisation)
        return self._rescaled(product, self._chain.scale)

    def _rescaled(self, value: Any, scale: float) -> Any:
        """One prime less; `scale` is what the result has, without the last bit's rounding."""
        self._evaluator.rescale_to_next_inplace(value)
        value.scale = scale
        return value

    def _add_up(self, value: Any, steps: Sequence[int]) -> Any:
        """Σ over all subsets of the steps: rotate, add, again."""
        turned = sealapi.Ciphertext(self._chain.context)
        for step in steps:
            self._evaluator.rotate_vector(value, step, self._galois, turned)
            self._evaluator.add_inplace(value, turned)
        return value

    def _mask(self) -> Any:
        """Uniform numbers for slots without a logit, as large as the modulus allows.

        Coefficients are averages over slots, so random slots of size M give ones of about M·√(2/3N): with M as large as
        the modulus has room above the scale they stay below an eighth of it.
        """
        chain, layout = self._chain, self._chain.layout
        size = layout.degree // 2
        drawn = np.frombuffer(secrets.token_bytes(8 * size), dtype="<i8") / 2.0**63
        largest = chain.primes[0] / chain.scale / 2
        slots = (drawn * largest).reshape(layout.blocks, layout.block)
        slots[:, 0] = 0.0
        return chain.encode(slots.ravel(), 1, chain.scale)


def _load_keys(chain: _Chain, data: bytes) -> tuple[Any, Any]:
    """Relinearisation and Galois keys.

    Raises:
        SchemeError: (WRONG_KEY) damaged bytes or keys for other parameters or rotations.
    """
    code, plan = FailureCode.WRONG_KEY, chain.plan
    size = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else 0
    if not 0 < size < len(data) - 8:
        raise SchemeError(code, f"evaluation keys of {len(data)} bytes are damaged")
    elements, primes = _rotation_elements(chain.layout), len(plan.coeff_modulus)
    key = CIPHERTEXT_OVERHEAD + 16 + 2 * primes * plan.degree * 8
    loaded = []
    for part, what, count, slots, kind in (
        (data[8 : 8 + size], "relinearisation keys", 1, 1, sealapi.RelinKeys),
        (data[8 + size :], "Galois keys", len(elements), plan.degree, sealapi.GaloisKeys),
    ):
        sealio.check_frame(part, 40 + 8 * slots + count * (primes - 1) * key, what, code)
        value = kind()
        sealio.load_object(chain.context, value, part, what, code)
        loaded.append(value)
    relinearisation, galois = loaded
    if not all(galois.has_key(element) for element in elements) or not relinearisation.has_key(2):
        raise SchemeError(code, "the evaluation keys are not those of the planned rotations")
    return relinearisation, galois


def fresh_keys(plan: HeadPlan) -> tuple[Any, PublicMaterial]:
    """See `scheme.fresh_keys`."""
    chain = _Chain(plan)
    generator = sealapi.KeyGenerator(chain.context)
    public_key, galois, relinearisation = sealapi.PublicKey(), sealapi.GaloisKeys(), sealapi.RelinKeys()
    generator.create_public_key(public_key)
    generator.create_galois_keys(_rotation_elements(chain.layout), galois)
    generator.create_relin_keys(relinearisation)
    keys = [sealio.to_bytes(value) for value in (relinearisation, galois)]
    evaluation = struct.pack("<Q", len(keys[0])) + b"".join(keys)
    return generator.secret_key(), public_material(plan, sealio.to_bytes(public_key), evaluation)


def custody_of(secret: Any, public: PublicMaterial) -> LevelledCustody:
    """See `scheme.custody_of`."""
    return LevelledCustody(secret, public)


def make_encryptor(public: PublicMaterial) -> LevelledEncryptor:
    """See `scheme.make_encryptor`."""
    return LevelledEncryptor(public)


def make_evaluator(
    public: PublicMaterial, head: HeadCiphertexts, backend: str = "auto", device: str = "cpu"
) -> LevelledEvaluator:
    """See `scheme.make_evaluator`; there is only one evaluator."""
    del backend, device
    return LevelledEvaluator(public, head)
