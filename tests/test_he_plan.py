"""The planner: security table, primes, noise bound, strict parsing of plans from the wire."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as sealapi
from hypothesis import given, settings
from hypothesis import strategies as st

from rhe_parties.errors import FailureCode, ParameterError, SchemeError
from rhe_parties.he.noise import ckks_error, evaluation_noise_bits, reply_noise_bits
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.planner import DEFAULT_LOGIT_ERROR, MEMORY_LIMIT_BYTES, plan_head, weigh
from rhe_parties.he.primes import is_prime, ntt_primes
from rhe_parties.he.quantise import lift_columns, quantise_features, quantise_head
from rhe_parties.he.scheme import make_custody, make_encryptor, make_evaluator
from rhe_parties.he.security import MAX_MODULUS_BITS, check_security


def test_security_table_is_that_of_seal() -> None:
    levels = {
        128: sealapi.SEC_LEVEL_TYPE.TC128,
        192: sealapi.SEC_LEVEL_TYPE.TC192,
        256: sealapi.SEC_LEVEL_TYPE.TC256,
    }
    for bits, level in levels.items():
        for degree, most in MAX_MODULUS_BITS[bits].items():
            assert sealapi.CoeffModulus.MaxBitCount(degree, level) == most


@pytest.mark.parametrize(("degree", "bits"), [(1024, 28), (2048, 55), (4096, 110), (8192, 219), (16384, 439)])
def test_parameters_below_128_bits_are_refused(degree: int, bits: int) -> None:
    check_security(degree, bits - 1)
    with pytest.raises(ParameterError, match=f"allowed: 1 to {bits - 1} bits"):
        check_security(degree, bits)


def test_unknown_degree_and_level_are_refused() -> None:
    with pytest.raises(ParameterError, match="ring degree 512"):
        check_security(512, 10)
    with pytest.raises(ParameterError, match="80 bits"):
        check_security(2048, 20, bits=80)


def test_primes_are_those_that_seal_picks() -> None:
    for degree, bits in ((2048, (54,)), (4096, (60, 30)), (4096, (36, 36, 37)), (8192, (60, 40, 60))):
        expected = [modulus.value() for modulus in sealapi.CoeffModulus.Create(degree, list(bits))]
        assert list(ntt_primes(degree, bits)) == expected
    with pytest.raises(ParameterError, match="no 1 primes of 10 bits"):
        ntt_primes(2048, (10,))


def test_is_prime_on_known_numbers() -> None:
    below_200 = [n for n in range(200) if n > 1 and all(n % d for d in range(2, n))]
    assert [n for n in range(200) if is_prime(n)] == below_200
    assert not is_prime(3215031751)  # strong pseudoprime to the bases 2, 3, 5 and 7
    assert is_prime(2**61 - 1)


SHAPES = {
    "features": st.one_of(st.sampled_from([1, 2, 255, 256, 4096]), st.integers(1, 4096)),
    "classes": st.one_of(st.sampled_from([1, 2, 10, 1000]), st.integers(1, 1000)),
    "batch": st.one_of(st.sampled_from([1, 256, 1000]), st.integers(1, 1000)),
}


@settings(max_examples=60, deadline=None)
@given(
    **SHAPES,
    hidden=st.sampled_from([(), (), (8,)]),
    norm=st.floats(2.0**-20, 2.0**20),
    scheme=st.sampled_from(["plain", "bfv"]),
    security=st.sampled_from([128, 128, 192, 256]),
)
def test_every_plan_is_secure_sound_and_survives_json(
    features: int, classes: int, batch: int, hidden: tuple[int, ...], norm: float, scheme: str, security: int
) -> None:
    if hidden and 8 * features * features * classes > MEMORY_LIMIT_BYTES / 3:  # the lifted head may be too large
        features, classes = min(features, 1000), min(classes, 50)
    plan = plan_head(features, classes, hidden, batch, None, security, scheme, norm)
    check_security(plan.degree, math.prod(plan.coeff_modulus).bit_length(), security)
    assert plan.batch * plan.tile_classes * plan.tile_width <= plan.degree
    assert plan.feature_tiles * plan.tile_width >= plan.columns
    assert plan.class_tiles * plan.tile_classes >= classes
    assert plan.margin_bits >= 1
    assert plan.logit_error <= DEFAULT_LOGIT_ERROR or hidden
    assert plan.head_memory_bytes <= MEMORY_LIMIT_BYTES
    fewest = plan.classes - (plan.class_tiles - 1) * plan.tile_classes
    assert plan.margin_bits * (plan.check_count + fewest) >= 40  # a wrong key passes with 2^-40 at most
    outputs = set(plan.layout.output_positions(0, plan.batch).ravel().tolist())
    checks = plan.check_positions.tolist()
    assert len(checks) == plan.check_count
    assert outputs.isdisjoint(checks)
    tolerated = math.log2(plan.prime / plan.plain_modulus) - 1
    assert plan.noise_bits <= tolerated - 1 + 1e-3  # both are rounded to thousandths
    again = HeadPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.identity() == plan.identity()


@settings(max_examples=12, deadline=None)
@given(**SHAPES, inputs=st.integers(0, 1000), extreme=st.booleans(), seed=st.integers(0, 2**31))
def test_every_plan_decrypts_correctly(
    features: int, classes: int, batch: int, inputs: int, extreme: bool, seed: int
) -> None:
    """Real keys, real ciphertexts, the default evaluator; large products of sizes are cut to keep it short."""
    while features * classes > 60_000:
        features, classes = max(1, features // 2), max(1, classes // 2)
    while features * classes * inputs > 3_000_000 or (features * classes > 3000 and batch > 64):
        inputs, batch = inputs // 2, max(1, batch // 2)
    plan = plan_head(features, classes, batch=batch)
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(classes, features)), rng.normal(size=classes)
    rows = rng.normal(size=(inputs, features)) * rng.choice([0.1, 1.0, 1e6], size=(inputs, 1))
    if extreme:
        weight, bias = np.sign(weight) * 1e30, np.full(classes, -1e30)
        rows = np.sign(rows) * 1e30
    custody = make_custody(plan)
    head, _ = make_encryptor(custody.public).encrypt(weight, bias)
    reply, _ = make_evaluator(custody.public, head).evaluate(rows)
    integers, _ = quantise_features(plan, rows)
    wanted = lift_columns(plan, integers) @ quantise_head(plan, weight, bias).weights.T
    np.testing.assert_array_equal(custody.decrypt(reply), wanted)


def test_default_head_is_small_and_fits_one_reply() -> None:
    plan = plan_head(256, 10)
    assert (plan.degree, len(plan.coeff_modulus), plan.class_tiles) == (2048, 1, 1)
    assert plan.evaluation_key_bytes == 0
    assert plan.reply_bytes < 11_000


def test_throughput_layout_shares_replies() -> None:
    plan = plan_head(1280, 10, batch=256)
    assert plan.batch >= 64
    assert plan.reply_bytes / plan.batch < 1000
    assert plan.head_memory_bytes < 128e6


def test_planner_takes_the_cheaper_way_for_a_square_layer() -> None:
    assert plan_head(256, 2, (8,)).scheme == "bfv"
    assert plan_head(3000, 100, (2,)).scheme == "ckks"  # lifted, the head would not fit any host
    assert plan_head(256, 2, (8, 4)).scheme == "ckks"
    ways = weigh(256, 2, (8,))
    assert ways[0].plan == plan_head(256, 2, (8,))
    assert not ways[0].reason
    assert all(way.reason for way in ways[1:])
    assert any("levelled" in way.what and "times slower" in way.reason for way in ways)


@pytest.mark.parametrize(
    ("scheme", "hidden"), [("plain", ()), ("bfv", ()), ("ckks", ()), ("bfv", (8,)), ("ckks", (8,))]
)
def test_description_names_every_choice(scheme: str, hidden: tuple[int, ...]) -> None:
    rows = plan_head(256, 10, hidden, scheme=scheme).describe()
    named = {row[0] for row in rows}
    assert {"scheme", "ring", "public key", "evaluation keys", "encrypted head", "reply"} <= named
    assert all(len(row) == 3 and all(row) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"features": 0}, "features 0 is not allowed .allowed: whole numbers 1 to 4096; nearest: 1"),
        ({"features": 4097}, "nearest: 4096"),
        ({"features": 4096, "scheme": "ckks"}, "1 to 4095"),
        ({"classes": 1001}, "1 to 1000"),
        ({"features": True}, "features True"),
        ({"batch": 0}, "batch 0 .*nearest: 1"),
        ({"batch": 1001}, "nearest: 1000"),
        ({"hidden": (8, 8), "scheme": "bfv"}, "three layers: scheme 'ckks'"),
        ({"hidden": (8, 8, 8)}, "up to 2 widths"),
        ({"hidden": (0,)}, "hidden 0"),
        ({"hidden": 8}, "hidden 8"),
        ({"security": 100}, "security 100 is not allowed .allowed: 128, 192, 256"),
        ({"security": 192, "scheme": "ckks"}, "128-bit security, not 192"),
        ({"logit_error": 0.0}, "logit_error 0"),
        ({"logit_error": 1e-9, "scheme": "bfv"}, "logit_error 1e-09 is not possible here .nearest: 1..e-04"),
        ({"logit_error": float("nan")}, "logit_error nan"),
        ({"features": 4096, "classes": 1000, "hidden": (8,), "scheme": "bfv"}, "GiB at the host .allowed: 1 GiB"),
        ({"feature_norm": float("nan")}, "feature_norm nan"),
        ({"feature_norm": 2.0**21}, "feature_norm"),
        ({"scheme": "bvf"}, "did you mean 'bfv'"),
    ],
)
def test_impossible_wishes_are_refused(arguments: dict[str, Any], match: str) -> None:
    wishes: dict[str, Any] = {"features": 256, "classes": 10} | arguments
    with pytest.raises(ParameterError, match=match):
        plan_head(**wishes)


def test_the_nearest_logit_error_is_possible() -> None:
    with pytest.raises(ParameterError) as caught:
        plan_head(256, 10, logit_error=1e-9, scheme="bfv")
    near = float(str(caught.value).split("nearest: ")[1].rstrip(")"))
    assert plan_head(256, 10, logit_error=near, scheme="bfv").logit_error <= near


_HOSTILE: list[tuple[str, object]] = [
    ("degree", 1024),
    ("degree", 4096),
    ("degree", "2048"),
    ("coeff_modulus", [(1 << 60) - 1]),
    ("coeff_modulus", []),
    ("coeff_modulus", list(ntt_primes(2048, (56,)))),
    ("coeff_modulus", [3] * 8),
    ("coeff_modulus", None),
    ("plain_modulus", 1 << 40),
    ("plain_modulus", (1 << 20) + 1),
    ("plain_modulus", -2),
    ("plain_modulus", 2),
    ("plain_modulus", 1 << 16),
    ("feature_bits", 22),
    ("feature_bits", True),
    ("feature_norm", float("inf")),
    ("feature_norm", "4"),
    ("security", 256),
    ("security", 64),
    ("hidden", [8]),
    ("hidden", [8, 8]),
    ("hidden", "8"),
    ("word_bytes", 3),
    ("word_bytes", 8),
    ("check_count", 0),
    ("features", 10**30),
    ("classes", -1),
    ("scheme", "ckks"),
    ("scheme", ["bfv"]),
    ("tile_width", 257),
    ("tile_classes", 9),
    ("batch", 2048),
    ("noise_bits", 0.0),
    ("noise_bits", float("nan")),
    ("margin_bits", 40.0),
    ("logit_error", None),
    ("reply_bytes", 10**12),
    ("head_bytes", 0),
    ("feature_tiles", 1),
    ("head_memory_bytes", 0),
]


@pytest.mark.parametrize(("name", "value"), _HOSTILE)
def test_a_hostile_value_in_a_plan_is_refused(name: str, value: object) -> None:
    values = plan_head(256, 10).to_dict()
    values[name] = value
    with pytest.raises(SchemeError, match="not a valid plan") as caught:
        HeadPlan.from_dict(values)
    assert caught.value.code is FailureCode.MALFORMED


def test_the_choices_alone_are_a_plan_and_are_checked_too() -> None:
    for scheme in ("plain", "bfv", "ckks"):
        plan = plan_head(256, 10, scheme=scheme)
        choices = json.loads(json.dumps(plan.choices()))
        assert "noise_bits" not in choices
        assert HeadPlan.from_dict(choices) == plan
        for name, value in (("feature_bits", 99), ("tile_width", 0), ("coeff_modulus", [17]), ("batch", 4000)):
            with pytest.raises(SchemeError, match="not a valid plan"):
                HeadPlan.from_dict({**choices, name: value})
    plan = plan_head(256, 10)
    assert plan.twin() == plan_head(256, 10, scheme="plain")


def test_missing_and_additional_keys_are_refused() -> None:
    values = plan_head(256, 10).to_dict()
    for broken in ({}, {**values, "more": 1}, {k: v for k, v in values.items() if k != "batch"}, [1, 2]):
        with pytest.raises(SchemeError, match="keys are not exactly"):
            HeadPlan.from_dict(broken)  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(sorted(plan_head(4, 2).to_dict())),
    value=st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.lists(st.integers(), max_size=4), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    ),
)  # fmt: skip
def test_any_value_gives_a_sound_plan_or_one_error(name: str, value: object) -> None:
    values = plan_head(4, 2).to_dict()
    values[name] = value
    try:
        plan = HeadPlan.from_dict(values)
    except SchemeError:
        return
    assert plan.margin_bits >= 1
    check_security(plan.degree, math.prod(plan.coeff_modulus).bit_length())


def test_noise_bound_holds_in_simulation_and_is_not_idle() -> None:
    """Constant features are the worst case of the bound; the noise of keys must stay below, yet near."""
    degree, width, tiles, limit = 2048, 129, 2, 1024
    rng = np.random.default_rng(7)
    features = np.zeros(degree)
    features[:width] = limit

    def negacyclic(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        twist = np.exp(1j * np.pi * np.arange(degree) / degree)
        product = np.fft.ifft(np.fft.fft(left * twist) * np.fft.fft(right * twist)) / twist
        return np.asarray(product.real)

    def error() -> np.ndarray[Any, Any]:
        return rng.binomial(21, 0.5, degree) - rng.binomial(21, 0.5, degree)

    largest = 0.0
    for _ in range(20):
        secret, total = rng.integers(-1, 2, degree), np.zeros(degree)
        for _ in range(tiles):
            noise = negacyclic(error(), rng.integers(-1, 2, degree)) + error() + negacyclic(error(), secret)
            total += negacyclic(np.rint(noise), features)
        largest = max(largest, float(np.abs(total).max()))
    columns = tiles * width
    bound = evaluation_noise_bits(degree, None, width, columns * limit**2, columns * limit)
    assert math.log2(largest) < bound < math.log2(largest) + 3


def test_noise_grows_with_what_it_should_grow_with() -> None:
    base = evaluation_noise_bits(2048, None, 100, 10**8, 10**5)
    assert evaluation_noise_bits(2048, None, 100, 4 * 10**8, 2 * 10**5) == pytest.approx(base + 1, abs=1e-6)
    assert evaluation_noise_bits(2048, None, 200, 10**8, 10**5) > base
    assert evaluation_noise_bits(4096, 1 << 40, 100, 10**8, 10**5) < base - 2
    assert reply_noise_bits(2048, 20.0, 0) == pytest.approx(20.0, abs=1e-3)
    assert reply_noise_bits(2048, 20.0, 14) > reply_noise_bits(2048, 20.0, 10) > 20.0
    assert ckks_error(8192, 256, 40) < ckks_error(8192, 4095, 40) < 1e-4


def test_cutting_low_bits_adds_no_more_noise_than_stated() -> None:
    """Uniform residues, cut and restored to the middle: the error of decryption stays below the bound, yet near."""
    degree, shift = 2048, 14
    rng = np.random.default_rng(3)
    largest = 0.0
    for _ in range(20):
        lost = rng.integers(0, 1 << shift, size=(2, degree)) - (1 << (shift - 1))
        secret = rng.integers(-1, 2, degree)
        twist = np.exp(1j * np.pi * np.arange(degree) / degree)
        product = (np.fft.ifft(np.fft.fft(lost[1] * twist) * np.fft.fft(secret * twist)) / twist).real
        largest = max(largest, float(np.abs(product + lost[0]).max()))
    bound = 2.0 ** reply_noise_bits(degree, -100.0, shift)
    assert largest < bound < 8 * largest
