"""Keys at rest: what is sealed opens as the same keys for its recipient alone, and damage shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyrage
import pytest
import tenseal.sealapi as sealapi

from rhe_parties.errors import FailureCode, ParameterError, SchemeError
from rhe_parties.he import sealed
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import KeyCustody, LogitCiphertexts, make_custody, make_encryptor, make_evaluator
from rhe_parties.he.seal_format import OBJECT_HEADER_BYTES, object_size
from rhe_parties.he.sealed import sealed_custody, unsealed_custody
from tests.key_spy import KeySpy, key_needles

IDENTITY = pyrage.x25519.Identity.generate()


def _logits(custody: KeyCustody, holder: KeyCustody) -> tuple[Any, LogitCiphertexts]:
    """Logits that `holder` decrypts of a head of ones on features of ones, encrypted for `custody`; and the reply."""
    plan = custody.public.plan
    hidden = [(np.ones((width, plan.features)), np.zeros(width)) for width in plan.hidden]
    weight = np.ones((plan.classes, plan.hidden[0] if hidden else plan.features))
    head, unit = make_encryptor(custody.public).encrypt(weight, np.arange(plan.classes), hidden)
    reply, _ = make_evaluator(custody.public, head).evaluate(np.ones((1, plan.features)))
    return holder.decrypt(reply) * unit, reply


@pytest.mark.parametrize(
    ("scheme", "hidden"), [("bfv", ()), ("ckks", ()), ("ckks", (2,))], ids=["bfv", "ckks", "levelled"]
)
def test_what_was_sealed_opens_as_the_same_keys(
    scheme: str, hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    KeySpy.seen.clear()
    monkeypatch.setattr(sealapi, "KeyGenerator", KeySpy)
    plan = plan_head(6, 3, hidden, scheme=scheme)
    custody, data = sealed_custody(plan, IDENTITY.to_public())
    (secret,) = KeySpy.seen
    opened = unsealed_custody(data, IDENTITY)
    assert len(KeySpy.seen) == 1  # opening makes no keys
    assert opened.public == custody.public
    assert type(opened) is type(custody)
    ours, reply = _logits(custody, custody)
    assert ours[0].argmax() == 2
    assert np.array_equal(custody.decrypt(reply), opened.decrypt(reply))
    needles = key_needles(secret, plan.degree)
    assert not any(needle in data for needle in needles)
    # The test of the test: that is what lies inside the seal.
    assert needles[0] in pyrage.decrypt(data, [IDENTITY])


def test_the_seal_opens_for_its_recipient_alone_and_damage_shows() -> None:
    _, data = sealed_custody(plan_head(4, 2), IDENTITY.to_public())
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    other = pyrage.x25519.Identity.generate()
    for damaged, identity in ((data, other), (flipped, IDENTITY), (data[:-1], IDENTITY), (b"", IDENTITY)):
        with pytest.raises(SchemeError, match="the sealed key cannot be used: it does not open") as caught:
            unsealed_custody(damaged, identity)
        assert caught.value.code == FailureCode.WRONG_KEY


def _resealed(change: Any) -> bytes:
    """A seal around something else, as only somebody who knows the recipient can make it."""
    _, data = sealed_custody(plan_head(4, 2), IDENTITY.to_public())
    inside = pyrage.decrypt(data, [IDENTITY])
    return bytes(pyrage.encrypt(change(inside), [IDENTITY.to_public()]))


def test_secret_and_public_key_that_do_not_belong_together_are_refused() -> None:
    _, other = sealed_custody(plan_head(4, 2), IDENTITY.to_public())
    foreign = pyrage.decrypt(other, [IDENTITY])

    def mixed(inside: bytes) -> bytes:
        ours, theirs = (object_size(part[:OBJECT_HEADER_BYTES], FailureCode.WRONG_KEY) for part in (inside, foreign))
        return bytes(foreign[:theirs] + inside[ours:])

    with pytest.raises(SchemeError, match="does not open what its public key encrypts"):
        unsealed_custody(_resealed(mixed), IDENTITY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inside: b"hello", "are no SEAL object"),
        (lambda inside: inside[:-3], "does not match its fingerprint"),
        (lambda inside: inside[:40], "something else than this program seals"),
        (lambda inside: inside + b"more", "something else than this program seals"),
        (lambda inside: inside.replace(b"sealed key 1", b"sealed key 9"), "of another version"),
        (lambda inside: inside.replace(b'"features": 4', b'"features": 5'), "does not match its fingerprint"),
        (lambda inside: inside.replace(b'"features": 4', b'"features": 0'), "not a valid plan"),
        (lambda inside: inside[:16] + bytes(64) + inside[80:], "loading a sealed secret key"),
    ],
)
def test_other_content_is_refused(change: Any, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        unsealed_custody(_resealed(change), IDENTITY)


def test_the_noise_check_is_the_openers_choice() -> None:
    custody, data = sealed_custody(plan_head(4, 2), IDENTITY.to_public(), noise_check=False)
    foreign = make_custody(custody.public.plan)
    _, reply = _logits(foreign, foreign)
    assert custody.decrypt(reply).shape == unsealed_custody(data, IDENTITY, False).decrypt(reply).shape == (1, 2)
    with pytest.raises(SchemeError, match="made for another key"):
        unsealed_custody(data, IDENTITY).decrypt(reply)


def test_what_cannot_be_sealed_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"'plain' has no secret key.*allowed: bfv, ckks"):
        sealed_custody(plan_head(4, 2, scheme="plain"), IDENTITY.to_public())
    monkeypatch.setattr(sealed, "memory_file", lambda name: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ParameterError, match="files in memory"):
        sealed_custody(plan_head(4, 2), IDENTITY.to_public())
    assert not list(tmp_path.iterdir())
