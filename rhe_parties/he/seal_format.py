"""SEAL's serialised objects in pure Python, so that a host needs no SEAL to read an encrypted head.

Microsoft SEAL 4.x writes an object as a header of 16 bytes (magic, header size, version, compression, two
reserved bytes, total size) and a body, plain or as one zstd frame. The body of a ciphertext is, after SEAL's
`Ciphertext::save_members`:

    parms_id 32 bytes | NTT form 1 | polynomials 8 | N 8 | primes 8 | scale 8 | correction factor 8
    | a second header of 16 bytes | number of words 8 | residues, 8 bytes each: polynomial, prime, coefficient

All numbers are little-endian. A zstd frame can expand ten-thousandfold, so before anything is decompressed
the frame must declare exactly the expected size and its blocks, which are counted unopened, must not be able
to exceed it by far.
"""

from __future__ import annotations

import struct
import threading

import numpy as np
import numpy.typing as npt
import zstandard

from rhe_parties.errors import FailureCode, SchemeError

__all__ = [
    "CIPHERTEXT_OVERHEAD",
    "OBJECT_HEADER_BYTES",
    "PARMS_ID_BYTES",
    "VERSION",
    "check_frame",
    "object_size",
    "object_version",
    "read_ciphertext",
    "write_ciphertext",
    "write_plaintext",
    "write_secret_key",
]

VERSION = (4, 3)
"""Version that objects are written as unless the caller knows its SEAL's own: SEAL up to 4.3 loads its own minor
version only, later ones also earlier minor versions. What is read may be any 4.x."""
CIPHERTEXT_OVERHEAD = 97
"""Bytes in front of a ciphertext's residues: parameter hash, flags, sizes, scale and inner header."""
PARMS_ID_BYTES = 32

_HEADER = struct.Struct("<HBBBBHQ")
OBJECT_HEADER_BYTES = _HEADER.size
_FIELDS = struct.Struct("<BQQQdQ")
_WORDS = struct.Struct("<Q")
_MAGIC, _MAJOR, _NO_COMPRESSION, _ZSTD = 0xA15E, 4, 0, 2
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK = 128 * 1024
_ZSTD_SPLIT = 16
"""Compressors may split a block; this many parts are accepted, so a frame expands at most that far."""
_LOCAL = threading.local()


def read_ciphertext(
    data: bytes, degree: int, prime: int, parms_id: bytes | None = None, *, transparent: bool = False
) -> npt.NDArray[np.uint64]:
    """Residues [2, N] of a saved BFV ciphertext of two polynomials in coefficient form over one data prime.

    Args:
        data: the object, without a checksum behind it.
        degree: N of the plan.
        prime: the one data prime; every residue must be below it.
        parms_id: SEAL's hash of the encryption parameters (32 bytes); None accepts any.
        transparent: whether a transparent ciphertext is read too; only somebody who looks for such wants that.

    Raises:
        SchemeError: (BAD_CIPHERTEXT) damaged, truncated or expanding bytes, another version, size, number of
            polynomials or primes, NTT form, other parameters, a residue beyond the prime, or, unless allowed, a
            transparent ciphertext (second polynomial zero: anybody can read it).
    """
    words = 2 * degree
    content = CIPHERTEXT_OVERHEAD + 8 * words
    check_frame(data, content, "ciphertext")
    body = _body(data, content)
    reason = _fields_fault(body, degree, parms_id)
    if not reason:
        residues = np.frombuffer(body, dtype="<u8", offset=CIPHERTEXT_OVERHEAD).astype(np.uint64).reshape(2, degree)
        if int(residues.max()) >= prime:
            reason = f"residue {int(residues.max())} is not below the prime {prime}"
        elif not transparent and not residues[1].any():
            reason = "it is transparent: it hides nothing"
        else:
            return residues
    raise SchemeError(FailureCode.BAD_CIPHERTEXT, f"ciphertext of {len(data)} bytes: {reason}")


def write_ciphertext(residues: npt.NDArray[np.uint64], parms_id: bytes, version: tuple[int, int] = VERSION) -> bytes:
    """An uncompressed SEAL object of a BFV ciphertext in coefficient form, from residues [2, N] over one prime.

    Args:
        residues: uint64, below the data prime.
        parms_id: SEAL's hash of the encryption parameters (32 bytes).
        version: major and minor version of the SEAL that shall load it; see `VERSION`.

    Raises:
        SchemeError: (BAD_CIPHERTEXT) residues of another shape or type, or a hash of another length.
    """
    if residues.ndim != 2 or residues.shape[0] != 2 or residues.dtype != np.uint64:
        text = f"residues {residues.dtype} {list(residues.shape)} are no ciphertext (allowed: uint64 [2, N])"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
    if len(parms_id) != PARMS_ID_BYTES:
        text = f"a parameter hash of {len(parms_id)} bytes is not allowed (allowed: {PARMS_ID_BYTES})"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
    fields = _FIELDS.pack(0, 2, residues.shape[1], 1, 1.0, 1)
    return _object(parms_id + fields + _words(residues, version), version)


def write_plaintext(residues: npt.NDArray[np.uint64], version: tuple[int, int] = VERSION) -> bytes:
    """An uncompressed SEAL object of a BFV plaintext in coefficient form, from residues [n ≤ N] modulo t."""
    head = struct.pack("<4QQd", 0, 0, 0, 0, residues.size, 1.0)
    return _object(head + _words(residues, version), version)


def write_secret_key(transforms: npt.NDArray[np.uint64], parms_id: bytes, version: tuple[int, int] = VERSION) -> bytes:
    """An uncompressed SEAL object of a secret key from its transforms [primes, N], in SEAL's order, one per prime.

    `parms_id` is the hash of the parameters with all primes (`SEALContext.key_parms_id`), 32 bytes.
    """
    head = parms_id + struct.pack("<Qd", transforms.size, 1.0)
    return _object(head + _words(transforms.ravel(), version), version)


def object_version(data: bytes) -> tuple[int, int]:
    """Major and minor version that a saved object states.

    Raises:
        SchemeError: (BAD_CIPHERTEXT) no SEAL object.
    """
    _require_object(data, FailureCode.BAD_CIPHERTEXT)
    return data[3], data[4]


def object_size(start: bytes, code: FailureCode) -> int:
    """Bytes of a whole saved object, by its first `OBJECT_HEADER_BYTES`.

    Raises:
        SchemeError: (`code`) no SEAL object.
    """
    _require_object(start, code)
    size: int = _HEADER.unpack_from(start)[-1]
    return size


def _require_object(data: bytes, code: FailureCode) -> None:
    if len(data) < _HEADER.size or int.from_bytes(data[:2], "little") != _MAGIC:
        raise SchemeError(code, f"{len(data)} bytes are no SEAL object")


def check_frame(data: bytes, content: int, what: str, code: FailureCode = FailureCode.BAD_CIPHERTEXT) -> None:
    """Refuse bytes that are no SEAL object with a body of exactly `content` bytes, without decompressing.

    Raises:
        SchemeError: wrong magic, size, version or compression; another size; a frame that could expand
            beyond it.
    """
    reason = _frame_fault(data, content)
    if reason:
        raise SchemeError(code, f"{what} of {len(data)} bytes: {reason}")


def _words(residues: npt.NDArray[np.uint64], version: tuple[int, int]) -> bytes:
    """SEAL's `DynArray`: a header of its own, the number of words, the words."""
    raw = residues.astype("<u8", copy=False).tobytes()
    size = _HEADER.size + _WORDS.size + len(raw)
    return _HEADER.pack(_MAGIC, _HEADER.size, *version, _NO_COMPRESSION, 0, size) + _WORDS.pack(residues.size) + raw


def _object(body: bytes, version: tuple[int, int]) -> bytes:
    size = _HEADER.size + len(body)
    return _HEADER.pack(_MAGIC, _HEADER.size, *version, _NO_COMPRESSION, 0, size) + body


def _body(data: bytes, content: int) -> bytes | memoryview:
    """The body of an object that passed `check_frame`, decompressed into `content` bytes at most."""
    frame = memoryview(data)[_HEADER.size :]
    if data[5] == _NO_COMPRESSION:
        return frame
    decompressor: zstandard.ZstdDecompressor | None = getattr(_LOCAL, "decompressor", None)
    if decompressor is None:  # one per thread: it must not be shared
        decompressor = _LOCAL.decompressor = zstandard.ZstdDecompressor()
    try:
        # The frame declares its size (check_frame compared it): that is all that gets allocated and written.
        body = decompressor.decompress(frame, max_output_size=content, allow_extra_data=False)
    except zstandard.ZstdError as error:
        text = f"ciphertext of {len(data)} bytes: damaged zstd frame ({' '.join(str(error).split())[:80]})"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text) from None
    if len(body) != content:
        text = f"ciphertext of {len(data)} bytes: expands to {len(body)} bytes instead of {content}"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
    return body


def _fields_fault(body: bytes | memoryview, degree: int, parms_id: bytes | None) -> str:
    """What is wrong with the fields in front of the residues; empty if nothing."""
    if parms_id is not None and body[:PARMS_ID_BYTES] != parms_id:
        return "made for other encryption parameters"
    form, polynomials, size, primes, scale, factor = _FIELDS.unpack_from(body, PARMS_ID_BYTES)
    if form:
        return "it is in NTT form (allowed: coefficient form)"
    if (polynomials, size, primes) != (2, degree, 1):
        found = f"{polynomials} polynomials of degree {size} over {primes} primes"
        return f"{found} (allowed: 2 of degree {degree} over 1)"
    if scale != 1.0 or factor != 1:
        return f"scale {scale} and correction factor {factor} are not those of BFV (allowed: 1 and 1)"
    inner = PARMS_ID_BYTES + _FIELDS.size
    magic, header, major, _, compression, reserved, length = _HEADER.unpack_from(body, inner)
    if (magic, header, major, compression, reserved) != (_MAGIC, _HEADER.size, _MAJOR, _NO_COMPRESSION, 0):
        return "the header of the residues is damaged"
    (words,) = _WORDS.unpack_from(body, inner + _HEADER.size)
    if words != 2 * degree or length != len(body) - inner:
        return f"{words} residues in {length} bytes (allowed: {2 * degree} in {len(body) - inner})"
    return ""


def _frame_fault(data: bytes, content: int) -> str:
    if len(data) < _HEADER.size:
        return "shorter than a header"
    magic, header_size, major, _, compression, reserved, size = _HEADER.unpack_from(data)
    if (magic, header_size, reserved) != (_MAGIC, _HEADER.size, 0) or major != _MAJOR:
        return f"not an object of SEAL {_MAJOR}"
    if size != len(data):
        return f"the header says {size} bytes"
    if compression == _NO_COMPRESSION:
        return "" if len(data) == _HEADER.size + content else f"not the planned size of {content} bytes"
    if compression != _ZSTD:
        return f"compression {compression} is not accepted"
    return _zstd_fault(memoryview(data)[_HEADER.size :], content)


def _zstd_fault(frame: memoryview, content: int) -> str:
    """What is wrong with a zstd frame (RFC 8878) that should hold `content` bytes; empty if nothing."""
    if len(frame) < 6 or frame[:4] != _ZSTD_MAGIC:
        return "not a zstd frame"
    descriptor = frame[4]
    single, checksum = bool(descriptor & 0x20), bool(descriptor & 0x04)
    width = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    position = 5 + (0 if single else 1)
    if descriptor & 0x0B or width == 0 or len(frame) < position + width:
        return "zstd frame without a declared size"
    declared = int.from_bytes(frame[position : position + width], "little") + (256 if width == 2 else 0)
    if declared != content:
        return f"declares {declared} bytes instead of {content}"
    position += width
    for _ in range(_ZSTD_SPLIT * (content // _ZSTD_BLOCK + 1)):
        if len(frame) < position + 3:
            return "truncated zstd block"
        header = int.from_bytes(frame[position : position + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == 3 or size > _ZSTD_BLOCK:
            return "invalid zstd block"
        position += 3 + (1 if kind == 1 else size)
        if last:
            return "" if position + 4 * checksum == len(frame) else "bytes beyond the zstd frame"
    return "more zstd blocks than the declared size needs"
