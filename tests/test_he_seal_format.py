"""SEAL's objects in pure Python against SEAL itself, and against hostile bytes."""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tenseal.sealapi as sealapi
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rhe_parties.errors import FailureCode, SchemeError
from rhe_parties.he import sealio
from rhe_parties.he.primes import ntt_primes
from rhe_parties.he.seal_format import (
    CIPHERTEXT_OVERHEAD,
    VERSION,
    check_frame,
    object_version,
    read_ciphertext,
    write_ciphertext,
    write_plaintext,
)

HEADER = struct.Struct("<HBBBBHQ")
PLAIN = 1 << 20


@dataclass
class Setting:
    degree: int
    prime: int
    context: Any
    decryptor: Any
    encryptor: Any
    level: bytes
    message: npt.NDArray[np.int64]
    value: Any
    compressed: bytes
    version: tuple[int, int]

    @property
    def body(self) -> bytes:
        return zstandard.ZstdDecompressor().decompress(self.compressed[16:])

    @property
    def uncompressed(self) -> bytes:
        return HEADER.pack(0xA15E, 16, *self.version, 0, 0, 16 + len(self.body)) + self.body

    def zstd(self, frame: bytes) -> bytes:
        return HEADER.pack(0xA15E, 16, *self.version, 2, 0, 16 + len(frame)) + frame

    def packed(self, body: bytes) -> list[bytes]:
        """The body as an uncompressed and as a compressed object."""
        plain = HEADER.pack(0xA15E, 16, *self.version, 0, 0, 16 + len(body)) + body
        return [plain, self.zstd(zstandard.ZstdCompressor().compress(body))]

    def read(self, data: bytes) -> npt.NDArray[np.uint64]:
        return read_ciphertext(data, self.degree, self.prime, self.level)


def make(degree: int, bits: tuple[int, ...]) -> Setting:
    primes = ntt_primes(degree, bits)
    context = sealio.make_context(degree, primes, PLAIN)
    generator, key = sealapi.KeyGenerator(context), sealapi.PublicKey()
    generator.create_public_key(key)
    message = np.random.default_rng(1).integers(-1000, 1000, degree)
    value, encryptor = sealapi.Ciphertext(context), sealapi.Encryptor(context, key)
    encryptor.encrypt(sealio.make_plaintext(context, message, PLAIN), value)
    decryptor = sealapi.Decryptor(context, generator.secret_key())
    level = struct.pack("<4Q", *context.first_parms_id())
    data = sealio.to_bytes(value)
    return Setting(degree, primes[0], context, decryptor, encryptor, level, message, value, data, object_version(data))


@pytest.fixture(scope="module", params=[(2048, (54,)), (4096, (54, 55))], ids=["one prime", "two primes"])
def made(request: pytest.FixtureRequest) -> Setting:
    return make(*request.param)


@pytest.fixture(scope="module")
def small() -> Setting:
    return make(2048, (54,))


def refused(made: Setting, data: bytes) -> str:
    with pytest.raises(SchemeError) as caught:
        made.read(data)
    assert caught.value.code is FailureCode.BAD_CIPHERTEXT
    return caught.value.text


def test_saved_ciphertexts_are_read_to_their_residues(made: Setting) -> None:
    expected = sealio.ciphertext_residues(made.value)[:, 0]
    for data in (made.compressed, made.uncompressed, *made.packed(made.body)):
        residues = made.read(data)
        assert residues.dtype == np.uint64
        assert residues.shape == (2, made.degree)
        assert residues.flags.writeable
        np.testing.assert_array_equal(residues, expected)
    np.testing.assert_array_equal(read_ciphertext(made.compressed, made.degree, made.prime, None), expected)


def load(made: Setting, data: bytes, folder: Any) -> Any:
    path = folder / "object"
    path.write_bytes(data)
    value = sealapi.Ciphertext(made.context)
    value.load(made.context, str(path))
    return value


def decrypted(made: Setting, value: Any) -> npt.NDArray[np.int64]:
    plain = sealapi.Plaintext()
    made.decryptor.decrypt(value, plain)
    return sealio.plaintext_values(plain, np.arange(made.degree), PLAIN)


def test_seal_loads_and_decrypts_what_is_written(made: Setting, tmp_path: Any) -> None:
    residues = made.read(made.compressed)
    data = write_ciphertext(residues, made.level, made.version)
    assert data == made.uncompressed
    np.testing.assert_array_equal(decrypted(made, load(made, data, tmp_path)), made.message)
    doubled = (residues * np.uint64(2)) % np.uint64(made.prime)
    value = load(made, write_ciphertext(doubled, made.level, made.version), tmp_path)
    np.testing.assert_array_equal(decrypted(made, value), 2 * made.message)
    np.testing.assert_array_equal(made.read(sealio.to_bytes(value)), doubled)


def test_the_default_version_is_that_of_the_installed_seal(small: Setting) -> None:
    assert small.version == VERSION


def test_written_plaintexts(small: Setting, tmp_path: Any) -> None:
    path = tmp_path / "plain"
    path.write_bytes(write_plaintext(np.array([3, 0, 5], dtype=np.uint64), small.version))
    value = sealapi.Plaintext()
    value.load(small.context, str(path))
    assert value.to_string() == "5x^2 + 3"


def test_wrong_arguments_for_writing(small: Setting) -> None:
    good = np.ones((2, 8), dtype=np.uint64)
    for residues, level in ((good[0], bytes(32)), (good.astype(np.int64), bytes(32)), (good, bytes(31))):
        with pytest.raises(SchemeError, match="allowed") as caught:
            write_ciphertext(residues, level)
        assert caught.value.code is FailureCode.BAD_CIPHERTEXT
    with pytest.raises(SchemeError, match="no SEAL object"):
        object_version(b"\x5e")


def edited(body: bytes, place: int, layout: str, *values: Any) -> bytes:
    data = bytearray(body)
    struct.pack_into(layout, data, place, *values)
    return bytes(data)


@pytest.mark.parametrize(
    ("place", "layout", "value", "message"),
    [
        (0, "<Q", 1, "other encryption parameters"),
        (32, "<B", 1, "NTT form"),
        (33, "<Q", 3, "3 polynomials"),
        (33, "<Q", 1, "1 polynomials"),
        (41, "<Q", 1024, "degree 1024"),
        (49, "<Q", 2, "2 primes"),
        (57, "<d", 2.0, "scale"),
        (57, "<d", float("nan"), "scale"),
        (65, "<Q", 3, "factor"),
        (73, "<H", 0, "header of the residues"),
        (75, "<B", 3, "header of the residues"),
        (78, "<B", 2, "header of the residues"),
        (81, "<Q", 5, "residues"),
        (89, "<Q", 2**63, "residues"),
        (97, "<Q", 2**64 - 1, "not below the prime"),
    ],
)
def test_every_field_is_checked(small: Setting, place: int, layout: str, value: Any, message: str) -> None:
    for data in small.packed(edited(small.body, place, layout, value)):
        assert message in refused(small, data)


def test_residues_at_the_prime_and_transparent_ciphertexts(small: Setting) -> None:
    most = edited(small.body, CIPHERTEXT_OVERHEAD + 8, "<Q", small.prime - 1)
    at_prime = edited(small.body, CIPHERTEXT_OVERHEAD + 8, "<Q", small.prime)
    transparent = small.body[: CIPHERTEXT_OVERHEAD + 8 * small.degree] + bytes(8 * small.degree)
    for accepted, refused_one, seen in zip(
        small.packed(most), small.packed(at_prime), small.packed(transparent), strict=True
    ):
        assert small.read(accepted)[0, 1] == small.prime - 1
        assert "not below the prime" in refused(small, refused_one)
        assert "transparent" in refused(small, seen)


def test_what_seal_makes_of_ciphertexts_otherwise(small: Setting) -> None:
    evaluator = sealapi.Evaluator(small.context)
    transformed, product = sealapi.Ciphertext(small.context), sealapi.Ciphertext(small.context)
    evaluator.transform_to_ntt(small.value, transformed)
    assert "NTT form" in refused(small, sealio.to_bytes(transformed))
    evaluator.multiply(small.value, small.value, product)
    assert "declares" in refused(small, sealio.to_bytes(product))
    other = make(4096, (54, 55))
    assert "declares" in refused(small, other.compressed)
    with pytest.raises(SchemeError, match="other encryption parameters"):
        read_ciphertext(small.compressed, small.degree, small.prime, other.level)


def test_simple_damage(small: Setting) -> None:
    good = small.compressed
    for data in (
        b"",
        b"\x5e",
        good[:15],
        good[:16],
        good[:-1],
        good + b"\0",
        bytes(len(good)),
        good[:2] + b"\x11" + good[3:],
        good[:3] + b"\x03" + good[4:],
        good[:5] + b"\x01" + good[6:],
        good[:5] + b"\x07" + good[6:],
        good[:6] + b"\x01" + good[7:],
        good[:8] + struct.pack("<Q", 2**63) + good[16:],
        small.uncompressed[:-8],
        small.uncompressed + bytes(8),
        HEADER.pack(0xA15E, 16, 4, 3, 0, 0, len(small.uncompressed) + 8) + small.body + bytes(8),
    ):
        refused(small, data)


def bombs(small: Setting) -> list[bytes]:
    content = CIPHERTEXT_OVERHEAD + 16 * small.degree
    repeat = struct.pack("<I", (128 * 1024) << 3 | 1 << 1)[:3] + b"\0"
    last = struct.pack("<I", (128 * 1024) << 3 | 1 << 1 | 1)[:3] + b"\0"
    declared = b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", content - 256)
    compressor = zstandard.ZstdCompressor(level=19)
    unsized = zstandard.ZstdCompressor(write_content_size=False)
    return [
        declared + repeat * 5000 + last,
        declared + last,
        declared + last + b"\0",
        declared + repeat * 3 + last,
        b"\x28\xb5\x2f\xfd\x00\x58" + repeat * 10 + last,
        b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 1 << 31) + last,
        b"\x28\xb5\x2f\xfd\x60",
        declared + b"\xff\xff\xff",
        compressor.compress(bytes(200_000_000)),
        compressor.compress(small.body + b"\0"),
        compressor.compress(small.body) + compressor.compress(small.body),
        unsized.compress(small.body),
        b"",
    ]


def test_decompression_bombs(small: Setting) -> None:
    content = CIPHERTEXT_OVERHEAD + 16 * small.degree
    for frame in bombs(small):
        refused(small, small.zstd(frame))
    # A frame that declares the planned size but holds more or less must fail too, without being expanded.
    declared = b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", content - 256)
    for size in (content + 1, content - 1, 120_000):
        inner = struct.pack("<I", size << 3 | 1 << 1 | 1)[:3] + b"\0"
        assert "zstd" in refused(small, small.zstd(declared + inner))


def test_frames_of_other_objects_are_checked_under_their_code() -> None:
    with pytest.raises(SchemeError, match="public key of 3 bytes") as caught:
        check_frame(b"abc", 100, "public key", FailureCode.WRONG_KEY)
    assert caught.value.code is FailureCode.WRONG_KEY


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_objects_give_one_error_or_residues(small: Setting, data: st.DataObject) -> None:
    mutated = bytearray(data.draw(st.sampled_from([small.compressed, small.uncompressed])))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.one_of(st.integers(0, 130), st.integers(0, len(mutated) - 1)))
        mutated[place] = data.draw(st.integers(0, 255))
    read_or_refuse(small, bytes(mutated))


def test_thousands_of_mutations(small: Setting) -> None:
    rng = np.random.default_rng(0)
    outcomes = [0, 0]
    for index in range(4000):
        mutated = bytearray((small.compressed, small.uncompressed)[index % 2])
        kind = index // 2 % 4
        span = 128 if kind < 2 else len(mutated)
        for place in rng.integers(0, span, 1 + index % 3):
            mutated[place] ^= 1 << int(rng.integers(8))
        if kind == 3:
            del mutated[int(rng.integers(len(mutated))) :]
            mutated[8:16] = struct.pack("<Q", len(mutated))
        outcomes[read_or_refuse(small, bytes(mutated))] += 1
    assert min(outcomes) > 100, outcomes


def read_or_refuse(made: Setting, data: bytes) -> bool:
    """True if the bytes were read, to residues that a ciphertext may have."""
    try:
        residues = made.read(data)
    except SchemeError as error:
        if error.code is not FailureCode.BAD_CIPHERTEXT:
            raise
        return False
    assert residues.shape == (2, made.degree)
    assert int(residues.max()) < made.prime
    return True


def test_threads_read_side_by_side(small: Setting) -> None:
    expected, wrong = small.read(small.uncompressed), []

    def work() -> None:
        for _ in range(50):
            if not np.array_equal(small.read(small.compressed), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
