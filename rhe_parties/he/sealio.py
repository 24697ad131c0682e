"""SEAL objects to and from bytes, with checks that keep hostile bytes away from SEAL's decompressor.

`tenseal.sealapi` saves and loads by file path only, so the bytes pass through a file in memory that has no
name (or, where the system has none, a file in a private temporary folder). The key holder's secret key never
passes through here (see `sealed`); what `load_secret` reads is a key that an adversary found.

Before SEAL decompresses anything its frame is checked by `seal_format`.

Ciphertexts carry a checksum behind the object: one flipped bit can turn a ciphertext into a valid one of
other logits. It detects damage only; whoever tampers on purpose computes it anew.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import FileIO
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as sealapi

from rhe_parties.errors import FailureCode, SchemeError
from rhe_parties.he.memory_file import memory_file
from rhe_parties.he.plan import FINE_BITS, HeadPlan
from rhe_parties.he.seal_format import (
    CIPHERTEXT_OVERHEAD,
    check_frame,
    object_version,
    write_ciphertext,
    write_plaintext,
)
from rhe_parties.types import AnyArray, IntArray

__all__ = [
    "CHECKSUM_BYTES",
    "check_frame",
    "check_galois_keys",
    "ciphertext_residues",
    "guarded",
    "load_ciphertext",
    "load_object",
    "load_public_key",
    "load_secret",
    "make_ciphertext",
    "make_context",
    "make_plaintext",
    "parms_id",
    "plaintext_values",
    "plan_context",
    "to_bytes",
    "version",
    "with_checksum",
    "without_checksum",
]

CHECKSUM_BYTES = 16
_MAX_CIPHERTEXT = 1 << 24


class _Scratch:
    """A nameless file in memory that SEAL can open by path; one per thread and process."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        found = memory_file("seal")
        if found is not None:
            self._file, self.path = found
            return
        self._folder = tempfile.TemporaryDirectory(prefix="seal-")
        self.path = os.path.join(self._folder.name, "object")
        self._file = FileIO(self.path, "w+b")

    def write(self, data: bytes) -> None:
        self._file.seek(0)
        self._file.write(data)
        self._file.truncate()

    def read(self) -> bytes:
        size = os.fstat(self._file.fileno()).st_size
        self._file.seek(0)
        return self._file.read(size)


_LOCAL = threading.local()


def _scratch() -> _Scratch:
    scratch: _Scratch | None = getattr(_LOCAL, "scratch", None)
    # A forked child shares the file itself with its parent, so it must not use it.
    if scratch is None or scratch.owner != os.getpid():
        scratch = _LOCAL.scratch = _Scratch()
    return scratch


@contextmanager
def guarded(doing: str, code: FailureCode = FailureCode.BAD_CIPHERTEXT) -> Iterator[None]:
    """Turn whatever SEAL raises into a `SchemeError` that says what was being done."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError, MemoryError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        raise SchemeError(code, f"{doing}: {reason or type(error).__name__}") from None


def plan_context(plan: HeadPlan) -> Any:
    """The SEAL context of a plan of scheme `bfv` (plain modulus 2^52) or `ckks`."""
    fine = 0 if plan.scheme == "ckks" else 1 << FINE_BITS
    return make_context(plan.degree, plan.coeff_modulus, fine, plan.security)


@lru_cache(maxsize=64)
def parms_id(plan: HeadPlan) -> bytes:
    """SEAL's mark of the parameters in every ciphertext of the plan, 32 bytes."""
    return _mark(plan_context(plan))


def _mark(context: Any) -> bytes:
    return struct.pack("<4Q", *context.first_parms_id())


@lru_cache(maxsize=32)
def make_context(degree: int, primes: tuple[int, ...], plain_modulus: int, security: int = 128) -> Any:
    """The SEAL context for BFV (or, with `plain_modulus` 0, for CKKS); refused below the security level.

    Raises:
        SchemeError: SEAL refuses the parameters.
    """
    kind = sealapi.SCHEME_TYPE.BFV if plain_modulus else sealapi.SCHEME_TYPE.CKKS
    with guarded("setting up encryption parameters", FailureCode.MALFORMED):
        parameters = sealapi.EncryptionParameters(kind)
        parameters.set_poly_modulus_degree(degree)
        parameters.set_coeff_modulus([sealapi.Modulus(prime) for prime in primes])
        if plain_modulus:
            parameters.set_plain_modulus(plain_modulus)
        context = sealapi.SEALContext(parameters, True, getattr(sealapi.SEC_LEVEL_TYPE, f"TC{security}"))
    if not context.parameters_set():
        text = f"SEAL refuses the encryption parameters: {context.parameters_error_message()}"
        raise SchemeError(FailureCode.MALFORMED, text)
    return context


def to_bytes(value: Any) -> bytes:
    """The bytes of a SEAL object, as SEAL saves it (compressed)."""
    scratch = _scratch()
    value.save(scratch.path)
    return scratch.read()


def with_checksum(data: bytes) -> bytes:
    """A ciphertext's bytes with the first 16 bytes of their SHA-256 behind them."""
    return data + hashlib.sha256(data).digest()[:CHECKSUM_BYTES]


def without_checksum(data: bytes) -> bytes:
    """The bytes in front of the checksum.

    Raises:
        SchemeError: (BAD_CIPHERTEXT) the checksum does not match.
    """
    body = data[:-CHECKSUM_BYTES]
    if len(data) > _MAX_CIPHERTEXT or with_checksum(body) != data:
        text = f"ciphertext of {len(data)} bytes is damaged: its checksum does not match"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
    return body


def load_ciphertext(context: Any, data: bytes, degree: int, primes: int, parms_id: list[int]) -> Any:
    """A CKKS ciphertext of two polynomials over `primes` primes, at the level `parms_id`, from checksummed bytes.

    Those of BFV are read by `seal_format.read_ciphertext`.

    Raises:
        SchemeError: (BAD_CIPHERTEXT) damaged, truncated or oversized bytes, other parameters, another number of
            polynomials, coefficient form, or a transparent ciphertext (one that anybody can read).
    """
    data = without_checksum(data)
    check_frame(data, CIPHERTEXT_OVERHEAD + 2 * primes * degree * 8, "ciphertext")
    value = sealapi.Ciphertext(context)
    load_object(context, value, data, "ciphertext")
    transformed, level = bool(value.is_ntt_form()), list(value.parms_id())
    if value.size() != 2 or not transformed or level != list(parms_id):
        text = "ciphertext has another size, form or level than planned"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
    if value.is_transparent():
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, "ciphertext is transparent: it hides nothing")
    return value


def make_ciphertext(context: Any, residues: npt.NDArray[np.uint64]) -> Any:
    """A BFV ciphertext in coefficient form from residues uint64 [2, N] modulo one data prime.

    Raises:
        SchemeError: (BAD_CIPHERTEXT) residues that are not below the prime.
    """
    value = sealapi.Ciphertext(context)
    data = write_ciphertext(residues, _mark(context), version())
    load_object(context, value, data, "ciphertext")
    return value


def load_public_key(context: Any, data: bytes, degree: int, primes: int) -> Any:
    """A public key for the context.

    Raises:
        SchemeError: (WRONG_KEY) damaged bytes or a key for other parameters.
    """
    check_frame(data, CIPHERTEXT_OVERHEAD + 2 * primes * degree * 8, "public key", FailureCode.WRONG_KEY)
    value = sealapi.PublicKey()
    load_object(context, value, data, "public key", FailureCode.WRONG_KEY)
    return value


def check_galois_keys(data: bytes, degree: int, primes: int) -> None:
    """Refuse bytes that cannot be the Galois keys for all power-of-two rotations and the conjugation.

    Raises:
        SchemeError: WRONG_KEY; see `check_frame`.
    """
    key = CIPHERTEXT_OVERHEAD + 16 + 2 * primes * degree * 8
    keys = 2 * (degree.bit_length() - 2) * (primes - 1)
    # Parameter hash, number of slots, one count per slot; then the keys, each an object of its own.
    check_frame(data, 40 + 8 * degree + keys * key, "Galois keys", FailureCode.WRONG_KEY)


def load_object(
    context: Any, value: Any, data: bytes, what: str, code: FailureCode = FailureCode.BAD_CIPHERTEXT
) -> None:
    """Let SEAL read `data` into `value`, an empty object of the right kind; the caller has checked the frame.

    Raises:
        SchemeError: (`code`) bytes that are no such object or do not fit the parameters.
    """
    scratch = _scratch()
    scratch.write(data)
    with guarded(f"loading a {what}", code):
        value.load(context, scratch.path)
        if not (sealapi.is_valid_for(value, context) and sealapi.is_buffer_valid(value)):
            raise ValueError("does not fit the parameters")


def load_secret(context: Any, value: Any, data: bytes) -> None:
    """Let SEAL read a secret key that an adversary put together into `value`, an empty one.

    Raises:
        SchemeError: (WRONG_KEY) it is no secret key for these parameters.
    """
    load_object(context, value, data, "secret key", FailureCode.WRONG_KEY)


def make_plaintext(context: Any, coefficients: IntArray, modulus: int) -> Any:
    """A BFV plaintext from signed coefficients [n ≤ N] (any int64; taken modulo t, a power of two).

    Written as an uncompressed SEAL object, 25 times faster than SEAL's hexadecimal polynomial strings.
    """
    scratch = _scratch()
    scratch.write(write_plaintext((coefficients & (modulus - 1)).astype(np.uint64), version()))
    value = sealapi.Plaintext()
    value.load(context, scratch.path)
    return value


@lru_cache(maxsize=1)
def version() -> tuple[int, int]:
    """Version of the SEAL below, which loads objects of its own only."""
    return object_version(to_bytes(sealapi.Plaintext("1")))


def plaintext_values(value: Any, positions: IntArray, modulus: int) -> IntArray:
    """Coefficients of a plaintext at `positions` (any shape), centred modulo t, int64 of the same shape."""
    wanted = positions.ravel().tolist()
    if wanted and (least := max(wanted) + 1) > value.coeff_count():
        value.resize(least)  # with zeros: SEAL leaves out the highest where they are
    residues = np.fromiter(map(value.data, wanted), np.int64, len(wanted)).reshape(positions.shape)
    return np.where(residues >= modulus // 2, residues - modulus, residues)


def ciphertext_residues(value: Any) -> AnyArray:
    """All residues of a ciphertext, uint64 [polynomials, primes, N]."""
    shape = (value.size(), value.coeff_modulus_size(), value.poly_modulus_degree())
    words = value.dyn_array()
    read = map(words.at, range(shape[0] * shape[1] * shape[2]))
    return np.fromiter(read, dtype=np.uint64, count=shape[0] * shape[1] * shape[2]).reshape(shape)
