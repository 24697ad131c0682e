"""Damaged, foreign, transparent and oversized objects: a named error, never a crash."""

from __future__ import annotations

import dataclasses
import os
import struct
import threading
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as sealapi
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rhe_parties.errors import FailureCode, SchemeError
from rhe_parties.he import sealio
from rhe_parties.he.bfv import head_residues
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import (
    HeadCiphertexts,
    KeyCustody,
    LogitCiphertexts,
    fingerprint,
    make_custody,
    make_encryptor,
    make_evaluator,
)

PLAN = plan_head(40, 4)
INPUT = np.linspace(-1, 1, 40)[None]


@dataclasses.dataclass
class Setting:
    custody: KeyCustody
    head: HeadCiphertexts
    reply: LogitCiphertexts
    context: Any


@pytest.fixture(scope="module")
def made() -> Setting:
    custody = make_custody(PLAN)
    head, _ = make_encryptor(custody.public).encrypt(np.ones((4, 40)), np.arange(4.0))
    reply, _ = make_evaluator(custody.public, head).evaluate(INPUT)
    return Setting(custody, head, reply, sealio.plan_context(PLAN))


def refused(code: FailureCode, made: Setting, body: bytes) -> str:
    """Offer `body` with a right checksum as the head; it must be refused with `code`."""
    with pytest.raises(SchemeError) as caught:
        make_evaluator(made.custody.public, dataclasses.replace(made.head, ciphertexts=(sealio.with_checksum(body),)))
    assert caught.value.code is code
    return caught.value.text


def refused_reply(code: FailureCode, made: Setting, body: bytes) -> str:
    with pytest.raises(SchemeError) as caught:
        made.custody.decrypt(LogitCiphertexts((sealio.with_checksum(body),), 1))
    assert caught.value.code is code
    return caught.value.text


def test_what_honest_parties_send_is_accepted(made: Setting) -> None:
    assert made.custody.decrypt(made.reply).shape == (1, 4)


def test_any_damage_in_transit_breaks_the_checksum(made: Setting) -> None:
    good, rng = made.reply.ciphertexts[0], np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(good)
        damaged[int(rng.integers(len(good)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(SchemeError, match="checksum") as caught:
            made.custody.decrypt(LogitCiphertexts((bytes(damaged),), 1))
        assert caught.value.code is FailureCode.BAD_CIPHERTEXT


def test_simple_damage(made: Setting) -> None:
    good = sealio.without_checksum(made.head.ciphertexts[0])
    for data in (
        b"",
        b"\x5e",
        good[:15],
        good[:16],
        good[:-1],
        good + b"\0",
        bytes(len(good)),
        made.custody.public.plan.identity(),
        good[:5] + b"\x01" + good[6:],
        good[:5] + b"\x07" + good[6:],
        good[:8] + struct.pack("<Q", 2**63) + good[16:],
        b"\xff" * 20_000_000,
    ):
        refused(FailureCode.BAD_CIPHERTEXT, made, data)


def test_replies_of_another_form_are_refused(made: Setting) -> None:
    good = sealio.without_checksum(made.reply.ciphertexts[0])
    words = PLAN.degree * PLAN.word_bytes
    for data in (b"", good[:-1], good + b"\0", good[PLAN.word_bytes :], b"\xff" * 20_000_000):
        refused_reply(FailureCode.BAD_CIPHERTEXT, made, data)
    refused_reply(FailureCode.BAD_CIPHERTEXT, made, sealio.without_checksum(made.head.ciphertexts[0]))
    assert "transparent" in refused_reply(FailureCode.BAD_CIPHERTEXT, made, bytes(words) + good[words:])
    assert "transparent" in refused_reply(FailureCode.BAD_CIPHERTEXT, made, bytes(len(good)))
    assert "beyond the modulus" in refused_reply(FailureCode.BAD_CIPHERTEXT, made, b"\xff" * len(good))


def test_noise_where_a_reply_should_be_is_refused(made: Setting) -> None:
    """Uniform bytes are a reply under some other key; each single coefficient is judged by its noise."""
    good = sealio.without_checksum(made.reply.ciphertexts[0])
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.integers(0, PLAN.prime, len(good) // PLAN.word_bytes).astype("<u8") >> np.uint64(PLAN.reply_shift)
        data = values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, : PLAN.word_bytes].tobytes()
        assert "another key" in refused_reply(FailureCode.WRONG_KEY, made, data)
    # One logit alone moved by a fraction of its unit: the others are fine, and still the reply is refused.
    place = (PLAN.degree + 2) * PLAN.word_bytes
    word = int.from_bytes(good[place : place + PLAN.word_bytes], "little")
    limit = (PLAN.prime - 1) >> PLAN.reply_shift
    moved = (word + int(0.45 * PLAN.prime / PLAN.plain_modulus) // (1 << PLAN.reply_shift)) % limit
    data = good[:place] + moved.to_bytes(PLAN.word_bytes, "little") + good[place + PLAN.word_bytes :]
    refused_reply(FailureCode.WRONG_KEY, made, data)


def test_objects_for_other_parameters(made: Setting) -> None:
    for plan in (plan_head(40, 4, security=192), plan_head(40, 4, security=256), plan_head(40, 4, scheme="ckks")):
        assert plan.degree != PLAN.degree
        other = make_custody(plan)
        head, _ = make_encryptor(other.public).encrypt(np.ones((4, 40)), np.zeros(4))
        refused(FailureCode.BAD_CIPHERTEXT, made, sealio.without_checksum(head.ciphertexts[0]))


def head_object(made: Setting) -> Any:
    return sealio.make_ciphertext(made.context, head_residues(made.custody.public, made.head)[0, 0])


def test_transparent_and_transformed_ciphertexts(made: Setting) -> None:
    level = list(made.context.first_parms_id())
    empty = sealapi.Ciphertext(made.context, level, 2)
    empty.resize(made.context, level, 2)
    assert "transparent" in refused(FailureCode.BAD_CIPHERTEXT, made, sealio.to_bytes(empty))
    value = head_object(made)
    sealapi.Evaluator(made.context).transform_to_ntt_inplace(value)
    refused(FailureCode.BAD_CIPHERTEXT, made, sealio.to_bytes(value))


def test_products_of_ciphertexts_are_refused(made: Setting) -> None:
    value = head_object(made)
    sealapi.Evaluator(made.context).multiply_inplace(value, value)
    refused(FailureCode.BAD_CIPHERTEXT, made, sealio.to_bytes(value))


def test_residues_beyond_the_modulus_are_refused(made: Setting) -> None:
    residues = np.full(2 * PLAN.degree, 2**63, dtype="<u8")
    refused(FailureCode.BAD_CIPHERTEXT, made, uncompressed(made, residues.tobytes()))
    fine = np.random.default_rng(0).integers(0, PLAN.coeff_modulus[0], 2 * PLAN.degree).astype("<u8")
    data = sealio.with_checksum(uncompressed(made, fine.tobytes()))  # a valid object, but noise for this key
    evaluator = make_evaluator(made.custody.public, dataclasses.replace(made.head, ciphertexts=(data,)))
    with pytest.raises(SchemeError, match="another key") as caught:
        made.custody.decrypt(evaluator.evaluate(INPUT)[0])
    assert caught.value.code is FailureCode.WRONG_KEY


def uncompressed(made: Setting, residues: bytes) -> bytes:
    version = sealio.version()
    inner = struct.pack("<HBBBBHQQ", 0xA15E, 16, *version, 0, 0, 24 + len(residues), len(residues) // 8) + residues
    level = struct.pack("<4Q", *made.context.first_parms_id())
    body = level + b"\0" + struct.pack("<QQQdQ", 2, PLAN.degree, 1, 1.0, 1) + inner
    return struct.pack("<HBBBBHQ", 0xA15E, 16, *version, 0, 0, 16 + len(body)) + body


def test_decompression_bombs_are_refused_unopened(made: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstandard, "ZstdDecompressor", lambda *_, **__: pytest.fail("the bomb was opened"))
    content = 97 + 16 * PLAN.degree
    version = sealio.version()
    repeat = struct.pack("<I", (128 * 1024) << 3 | 1 << 1)[:3] + b"\0"
    last = struct.pack("<I", (128 * 1024) << 3 | 1 << 1 | 1)[:3] + b"\0"
    declared = b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", content - 256)
    for frame in (
        declared + repeat * 5000 + last,
        declared + last + b"\0",
        b"\x28\xb5\x2f\xfd\x00\x58" + repeat * 10 + last,
        b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 1 << 31) + last,
        b"\x28\xb5\x2f\xfd\x60",
        declared + b"\xff\xff\xff",
    ):
        data = struct.pack("<HBBBBHQ", 0xA15E, 16, *version, 2, 0, 16 + len(frame)) + frame
        refused(FailureCode.BAD_CIPHERTEXT, made, data)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_tampered_replies_give_one_error_or_integers(made: Setting, data: st.DataObject) -> None:
    """BFV is malleable: tampering with a right checksum may change logits, but it never crashes anyone."""
    good = bytearray(sealio.without_checksum(made.reply.ciphertexts[0]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.one_of(st.integers(0, 60), st.integers(0, len(good) - 1)))
        good[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(good)), st.integers(0, len(good))))
    try:
        result = made.custody.decrypt(LogitCiphertexts((sealio.with_checksum(bytes(good[:cut])),), 1))
    except SchemeError:
        return
    assert result.shape == (1, 4)
    assert np.abs(result).max() <= PLAN.plain_modulus // 2


@pytest.mark.parametrize("place", [0, 3, 5, 20, 60, 1000, -1])
def test_damaged_public_keys(made: Setting, place: int) -> None:
    public = made.custody.public
    damaged = bytearray(public.public_key)
    damaged[place] ^= 0xFF
    with pytest.raises(SchemeError, match="fingerprint") as caught:
        make_encryptor(dataclasses.replace(public, public_key=bytes(damaged)))
    assert caught.value.code is FailureCode.WRONG_KEY
    # Even with a matching fingerprint the object itself is checked.
    for data in (bytes(damaged[:place]), public.public_key[:40], b""):
        mark = fingerprint(PLAN, data, b"")
        with pytest.raises(SchemeError, match="public key"):
            make_encryptor(dataclasses.replace(public, public_key=data, fingerprint=mark))


def test_insecure_public_material_is_refused(made: Setting) -> None:
    from rhe_parties.he.primes import ntt_primes

    weak = dataclasses.replace(PLAN, coeff_modulus=ntt_primes(2048, (60,)))
    material = dataclasses.replace(made.custody.public, plan=weak)
    for call in (lambda: make_encryptor(material), lambda: make_evaluator(material, made.head)):
        with pytest.raises(SchemeError, match="below 128-bit security"):
            call()
    with pytest.raises(SchemeError, match="SEAL refuses"):
        sealio.make_context(2048, weak.coeff_modulus, 1 << 52)


def test_a_foreign_key_is_a_clear_error_and_never_a_wrong_class(made: Setting) -> None:
    other = make_custody(PLAN)
    with pytest.raises(SchemeError, match="other keys") as caught:
        make_evaluator(other.public, made.head)
    assert caught.value.code is FailureCode.WRONG_KEY
    with pytest.raises(SchemeError, match="another key") as caught:
        other.decrypt(made.reply)
    assert caught.value.code is FailureCode.WRONG_KEY
    relabelled = dataclasses.replace(made.head, key_fingerprint=other.public.fingerprint)
    reply, _ = make_evaluator(other.public, relabelled).evaluate(INPUT)
    for custody in (other,):
        with pytest.raises(SchemeError) as caught:
            custody.decrypt(reply)
        assert caught.value.code is FailureCode.WRONG_KEY


@pytest.mark.parametrize("scheme", ["plain", "bfv"])
def test_wrong_counts(scheme: str) -> None:
    custody = make_custody(plan_head(40, 4, scheme=scheme))
    head, _ = make_encryptor(custody.public).encrypt(np.ones((4, 40)), np.zeros(4))
    reply, _ = make_evaluator(custody.public, head).evaluate(np.repeat(INPUT, 2, axis=0))
    for ciphertexts in ((), head.ciphertexts * 2):
        with pytest.raises(SchemeError, match=r"ciphertexts \(allowed: 1\)") as caught:
            make_evaluator(custody.public, dataclasses.replace(head, ciphertexts=ciphertexts))
        assert caught.value.code is FailureCode.BAD_CIPHERTEXT
    batches: list[Any] = [0, 1, 3, -1, 10**9, True, "2", None, 2.0]
    for batch in batches:
        with pytest.raises(SchemeError) as caught:
            custody.decrypt(LogitCiphertexts(reply.ciphertexts, batch))
        assert caught.value.code is FailureCode.BAD_CIPHERTEXT


def test_plain_twin_checks_its_bytes() -> None:
    plan = plan_head(40, 4, scheme="plain")
    custody = make_custody(plan)
    for data in (b"", b"\0" * 8, b"\xff" * 7 + b"\x7f" + b"\0" * (8 * plan.degree - 8)):
        with pytest.raises(SchemeError) as caught:
            custody.decrypt(LogitCiphertexts((data,), 1))
        assert caught.value.code is FailureCode.BAD_CIPHERTEXT


def test_scratch_file_falls_back_to_a_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(sealio, "_LOCAL", threading.local())
    plain = sealapi.Plaintext("1x^3 + 2")
    assert sealio.to_bytes(plain)[:2] == b"\x5e\xa1"
    folder = sealio._LOCAL.scratch._folder.name
    assert os.stat(folder).st_mode & 0o077 == 0
