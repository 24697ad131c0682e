"""The key from approximate values: the algebra at any size, the attack at N=8192, and what stops it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as sealapi

from rhe_parties.errors import ParameterError, SchemeError
from rhe_parties.he import sealio
from rhe_parties.he.ckks import CkksCustody, load_reply
from rhe_parties.he.exact_ring import coefficients, values
from rhe_parties.he.found_key import FoundKey
from rhe_parties.he.key_algebra import Opened, solve_key, symmetric_part
from rhe_parties.he.planner import plan_head
from rhe_parties.he.primes import ntt_primes
from rhe_parties.he.scheme import make_custody, make_encryptor, make_evaluator
from rhe_parties.messages import Envelope
from rhe_parties.messages import payloads as p
from rhe_parties.parties.key_holder import MAX_RAW_VALUES, KeyHolder
from rhe_parties.parties.model_host import Corruption, ModelHost
from rhe_parties.parties.release import flooded, parse_release, rounded
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import resolve_worlds
from rhe_parties.testing.bench import Scene, Trial
from rhe_parties.threat.model import ADVERSARY, DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.types import AnyArray
from tests.laboratory import small_laboratory
from tests.ring_reference import negacyclic_product

SCALE = 2.0**40


def test_transforms_multiply_polynomials_and_pair_inverse_points() -> None:
    generator = np.random.default_rng(1)
    for degree, bits in ((8, 20), (64, 60)):
        (prime,) = ntt_primes(degree, (bits,))
        left, right = generator.integers(0, prime, size=(2, degree)).tolist()
        product = values(left, prime) * values(right, prime) % prime
        small = [value % 1000 for value in right]
        assert coefficients(product, prime).tolist() == _slow_product(left, right, prime)
        assert negacyclic_product(left, small, prime) == _slow_product(left, small, prime)
        mirrored = [left[0], *(-value % prime for value in left[:0:-1])]
        assert values(mirrored, prime).tolist() == values(left, prime)[::-1].tolist()


def _slow_product(left: list[int], right: list[int], prime: int) -> list[int]:
    degree = len(left)
    result = [0] * degree
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            result[(i + j) % degree] += -a * b if i + j >= degree else a * b
    return [value % prime for value in result]


def _toy(degree: int, prime: int, seed: int) -> tuple[list[int], list[Opened]]:
    """A secret and two ciphertexts of a toy CKKS, with the real parts of their decoded slots."""
    generator = np.random.default_rng(seed)
    secret = generator.integers(-1, 2, size=degree).tolist()
    powers = [pow(3, j, 2 * degree) for j in range(degree // 2)]
    points = np.exp(1j * np.pi * np.outer(powers, np.arange(degree)) / degree)
    made = []
    for _ in range(2):
        message = generator.integers(-(2**38), 2**38, size=degree)
        c1 = generator.integers(0, prime, size=degree).tolist()
        c0 = [(int(m) - v) % prime for m, v in zip(message, _slow_product(c1, secret, prime), strict=True)]
        made.append(Opened(values(c0, prime), values(c1, prime), (points @ message).real / SCALE))
    return secret, made


@pytest.mark.parametrize("degree", [8, 32, 128])
def test_two_ciphertexts_determine_a_toy_key_and_rounded_ones_do_not(degree: int) -> None:
    (prime,) = ntt_primes(degree, (60,))
    secret, (first, second) = _toy(degree, prime, degree)
    found = solve_key(first, second, SCALE, prime)
    assert found is not None
    assert found.tolist() == secret
    assert symmetric_part(first.slots, SCALE)[1] < 1e-2
    assert solve_key(first, first, SCALE, prime) is None, "one ciphertext leaves one equation for two unknowns"
    spoilt = Opened(first.c0, first.c1, rounded(first.slots, 6))
    assert solve_key(spoilt, second, SCALE, prime) is None


@pytest.fixture(scope="module")
def opened() -> tuple[CkksCustody, Any, list[Opened], list[AnyArray]]:
    """Real replies at the paper's parameters: one image, three classes, and what TenSEAL's `decrypt` gives of them."""
    plan = plan_head(256, 3, scheme="ckks", feature_norm=16.0)
    custody = make_custody(plan)
    assert isinstance(custody, CkksCustody)
    generator = np.random.default_rng(5)
    weight, bias = generator.normal(size=(3, 256)), generator.normal(size=3)
    head, unit = make_encryptor(custody.public).encrypt(weight, bias)
    reply, _ = make_evaluator(custody.public, head).evaluate(np.abs(generator.normal(size=(1, 256))))
    slots = custody.decrypt_slots(reply)
    np.testing.assert_array_equal(custody.decrypt(reply), slots[..., 0])
    residues = [sealio.ciphertext_residues(load_reply(plan, data)) for data in reply.ciphertexts]
    found = [Opened(r[0, 0], r[1, 0], s) for r, s in zip(residues, slots[0], strict=True)]
    return custody, head, found, [weight / unit, bias / unit]


def test_real_keys_fall_within_seconds_and_open_everything(opened: Any) -> None:
    custody, head, (first, second, _), (weight, bias) = opened
    plan, public = custody.public.plan, custody.public
    assert plan.degree == 8192
    started = time.perf_counter()
    found = solve_key(first, second, SCALE, plan.prime)
    assert found is not None
    key = FoundKey(plan, found)
    assert key.opens_fresh(public)
    assert time.perf_counter() - started < 10
    read_weight, read_bias = key.read_head(public, head)
    np.testing.assert_allclose(read_weight, weight, atol=1e-6)
    np.testing.assert_allclose(read_bias, bias, atol=1e-6)
    # What is not the key shows: one coefficient is wrong, or the key is somebody else's.
    wrong = found.copy()
    wrong[17] = 1 if wrong[17] < 1 else 0
    assert not FoundKey(plan, wrong).opens_fresh(public)
    assert not key.opens_fresh(make_custody(plan).public)


def test_rounding_and_flooding_hide_the_key(opened: Any) -> None:
    custody, _, (first, second, third), _ = opened
    prime, noise = custody.public.plan.prime, 1e-5
    treatments = [lambda v: rounded(v, 6), lambda v: flooded(v, 0, 1, noise, np.random.default_rng(3))]
    for treat in treatments:
        spoilt = [Opened(o.c0, o.c1, treat(o.slots)) for o in (first, second, third)]
        assert solve_key(spoilt[0], spoilt[1], SCALE, prime) is None
        assert solve_key(spoilt[1], spoilt[2], SCALE, prime) is None
    spread = flooded(np.zeros(4000), 20, 100, noise, np.random.default_rng(3)).std()
    assert 0.95 < spread / (2**10 * 10 * noise) < 1.05


@pytest.mark.parametrize("modifier", ["client", "decisions"])
def test_released_in_a_world_the_heads_are_open_to_the_last_digit(modifier: str) -> None:
    """Values of one question of its own, or of what others asked."""
    options = {"reconstruct": "false", "shadows": "64"}
    scene = Scene(f"rhe:ckks+{modifier}+release=raw", (("client_budget", 1),))
    report = Trial("key-recovery", options, scene).run().report
    assert report.outcome == "claim", report.error
    notes = dict(zip(report.note_names, report.note_values, strict=True))
    assert notes["fresh ciphertext decrypted"] == "yes"
    assert notes["ciphertexts used"] == "2"
    assert list(report.queries) == ([1, 0] if modifier == "client" else [])
    true = scene.laboratory.heads(scene.laboratory.worlds[0])
    for head, weight, bias in zip(true, report.named["weights"], report.named["biases"], strict=True):
        # The head's scale is in no ciphertext: it is right to a step of its grid.
        step = float(np.rint(8 * np.log2(np.linalg.norm(weight) / np.linalg.norm(head.weight))))
        assert abs(step) <= 1
        np.testing.assert_allclose(weight, head.weight * 2 ** (step / 8), atol=1e-5)
        np.testing.assert_allclose(bias, head.bias * 2 ** (step / 8), atol=1e-5)


def test_a_key_that_was_replaced_opens_what_was_recorded_under_it() -> None:
    """Rotation helps the heads of tomorrow; the private images of yesterday are in the ciphertexts of yesterday."""
    scene = Scene("rhe:ckks+decisions+release=raw+rotated", (("evaluation_images", 2), ("victims", 1)))
    report = Trial("key-recovery", {"shadows": "64", "reconstruct": "false"}, scene).run().report
    assert report.outcome == "claim", report.error
    notes = dict(zip(report.note_names, report.note_values, strict=True))
    assert notes["fresh ciphertext decrypted"] == "yes"
    assert notes["key"].startswith("one that was replaced")
    (true,) = (head.weight for head in scene.laboratory.heads(scene.laboratory.worlds[0]))  # type: ignore[union-attr]
    assert np.corrcoef(report.named["weights"].ravel(), (true - true.mean(axis=0)).ravel())[0, 1] > 0.999
    with pytest.raises(ParameterError, match="there is no key"):
        resolve_worlds(resolve_parameters({"worlds": "none+rotated,rhe"}))


def test_classes_alone_block_it_and_a_host_of_its_own_mind_hands_nothing_over() -> None:
    report = Trial("key-recovery", {}, Scene("rhe+client", ())).run().report
    assert (report.outcome, report.missing) == ("blocked", ("any values beside the classes",))
    backbone = small_laboratory().backbone
    forged, copy = p.HostOrder("r", (b"cipher",)), p.HostOrder("r")
    for corruption, order, why in ((Corruption(), forged, "only reads"), (None, copy, "does not control this host")):
        host = ModelHost("r", backbone, corruption=corruption)
        (reply,) = host.handle(Envelope("r", ADVERSARY, MODEL_HOST, 1, 0, order))
        assert isinstance(reply.payload, p.Failure)
        assert why in reply.payload.text
    host = ModelHost("r", backbone, corruption=Corruption(active=True))
    (reply,) = host.handle(Envelope("r", KEY_HOLDER, MODEL_HOST, 1, 0, forged))
    assert isinstance(reply.payload, p.Failure)
    assert host.handle(Envelope("r", ADVERSARY, MODEL_HOST, 1, 0, forged)) == []


def test_raw_values_exist_under_ckks_alone_and_in_bounded_number() -> None:
    for worlds in ("none,rhe+release=raw", "none+release=raw,rhe", "rhe:ckks+release=raw:rounded:7,none"):
        with pytest.raises(ParameterError, match="release="):
            resolve_worlds(resolve_parameters({"worlds": worlds}))
    with pytest.raises(ParameterError, match="ckks"):
        KeyHolder("r", plan_head(256, 3), 0, parse_release("raw"))
    for text in ("raw", "raw:rounded:3", "raw:flooded:30"):
        assert parse_release(text).name == text
    plan = plan_head(256, 3, scheme="ckks")
    holder = KeyHolder("r", plan, 0, parse_release("raw"))
    notice = p.HeadNotice("h", "f", True, 1.0, 3, holder.fingerprint)
    holder.handle(Envelope("r", DATA_OWNER, KEY_HOLDER, 1, 0, notice))
    images = np.zeros((MAX_RAW_VALUES // (3 * 4096) + 1, 1, 1, 1), dtype=np.uint8)
    (refusal,) = holder.handle(Envelope("r", LABORATORY, KEY_HOLDER, 1, 0, p.AskDecisions("q", "h", images)))
    assert isinstance(refusal.payload, p.Failure)
    assert "at most 1365 are allowed" in refusal.payload.text


def test_bytes_that_are_no_key_are_refused() -> None:
    plan = plan_head(16, 2, scheme="bfv")
    context = sealio.plan_context(plan)
    with pytest.raises(SchemeError, match="secret key"):
        sealio.load_secret(context, sealapi.SecretKey(), b"\x5e\xa1" + bytes(40))
