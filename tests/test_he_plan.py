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
from rhe_parties.he.noise import ckks_error, evaluation_noise_bits, switch_noise_bits
from rhe_parties.he.plan import HeadPlan, plan_head
from rhe_parties.he.primes import is_prime, ntt_primes
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


@settings(max_examples=60, deadline=None)
@given(
    features=st.integers(1, 4096),
    classes=st.integers(1, 1000),
    exponent=st.integers(-10, 10),
    scheme=st.sampled_from(["plain", "bfv"]),
)
def test_every_plan_is_secure_sound_and_survives_json(features: int, classes: int, exponent: int, scheme: str) -> None:
    plan = plan_head(features, classes, 2.0**exponent, scheme)
    check_security(plan.degree, math.prod(plan.coeff_modulus).bit_length())
    assert plan.batch * plan.tile_classes * plan.tile_width <= plan.degree
    assert plan.feature_tiles * plan.tile_width >= features + 1
    assert plan.class_tiles * plan.tile_classes >= classes
    assert plan.margin_bits >= 2
    assert plan.feature_bits >= 9
    assert plan.weight_bits >= 10
    tolerated = math.log2(math.prod(plan.data_primes[: plan.reply_primes]) / plan.plain_modulus) - 1
    assert plan.noise_bits <= tolerated - 2 + 1e-3  # both are rounded to thousandths
    again = HeadPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.identity() == plan.identity()


def test_default_head_is_small_and_fits_one_reply() -> None:
    plan = plan_head(256, 10, 4)
    assert (plan.degree, len(plan.coeff_modulus), plan.class_tiles) == (2048, 1, 1)
    assert plan.evaluation_key_bytes == 0
    assert plan.reply_bytes < 32_000


@pytest.mark.parametrize("scheme", ["plain", "bfv", "ckks"])
def test_description_names_every_choice(scheme: str) -> None:
    rows = plan_head(256, 10, 4.0, scheme).describe()
    named = {row[0] for row in rows}
    assert {"scheme", "ring", "public key", "evaluation keys", "encrypted head", "reply"} <= named
    assert all(len(row) == 3 and all(row) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0, 10, 4.0), "features 0"),
        ((4097, 10, 4.0), "1 to 4096"),
        ((4096, 10, 4.0, "ckks"), "1 to 4095"),
        ((256, 1001, 4.0), "1 to 1000"),
        ((True, 10, 4.0), "features True"),
        ((256, 10, 3.0), "not a power of two .nearest: 4.0"),
        ((256, 10, float("nan")), "feature_bound nan"),
        ((256, 10, 2.0**21), "feature_bound"),
        ((256, 10, 4.0, "bvf"), "did you mean 'bfv'"),
    ],
)
def test_impossible_wishes_are_refused(arguments: tuple[Any, ...], match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        plan_head(*arguments)


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
    ("feature_bits", 20),
    ("feature_bits", True),
    ("feature_bound", float("inf")),
    ("feature_bound", "4"),
    ("features", 10**30),
    ("classes", -1),
    ("scheme", "ckks"),
    ("scheme", ["bfv"]),
    ("tile_width", 257),
    ("tile_classes", 9),
    ("batch", 2048),
    ("reply_primes", 0),
    ("noise_bits", 0.0),
    ("noise_bits", float("nan")),
    ("margin_bits", 40.0),
    ("logit_error", None),
    ("reply_bytes", 10**12),
    ("head_bytes", 0),
    ("feature_tiles", 1),
]


@pytest.mark.parametrize(("name", "value"), _HOSTILE)
def test_a_hostile_value_in_a_plan_is_refused(name: str, value: object) -> None:
    values = plan_head(256, 10, 4.0).to_dict()
    values[name] = value
    with pytest.raises(SchemeError, match="not a valid plan") as caught:
        HeadPlan.from_dict(values)
    assert caught.value.code is FailureCode.MALFORMED


def test_the_choices_alone_are_a_plan_and_are_checked_too() -> None:
    for scheme in ("plain", "bfv", "ckks"):
        plan = plan_head(256, 10, 4.0, scheme)
        choices = json.loads(json.dumps(plan.choices()))
        assert "noise_bits" not in choices
        assert HeadPlan.from_dict(choices) == plan
        for name, value in (("feature_bits", 19), ("tile_width", 0), ("coeff_modulus", [17]), ("batch", 4000)):
            with pytest.raises(SchemeError, match="not a valid plan"):
                HeadPlan.from_dict({**choices, name: value})
    plan = plan_head(256, 10, 4.0)
    assert plan.twin() == plan_head(256, 10, 4.0, "plain")


def test_missing_and_additional_keys_are_refused() -> None:
    values = plan_head(256, 10, 4.0).to_dict()
    for broken in ({}, {**values, "more": 1}, {k: v for k, v in values.items() if k != "batch"}, [1, 2]):
        with pytest.raises(SchemeError, match="keys are not exactly"):
            HeadPlan.from_dict(broken)  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(sorted(plan_head(4, 2, 1.0).to_dict())),
    value=st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.lists(st.integers(), max_size=4), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    ),
)  # fmt: skip
def test_any_value_gives_a_sound_plan_or_one_error(name: str, value: object) -> None:
    values = plan_head(4, 2, 1.0).to_dict()
    values[name] = value
    try:
        plan = HeadPlan.from_dict(values)
    except SchemeError:
        return
    assert plan.margin_bits >= 2
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
    bound = evaluation_noise_bits(degree, ntt_primes(2048, (54,)), width, columns * limit**2, columns * limit)
    assert math.log2(largest) < bound < math.log2(largest) + 3


def test_noise_grows_with_what_it_should_grow_with() -> None:
    one, two = ntt_primes(2048, (54,)), ntt_primes(4096, (60, 30))
    base = evaluation_noise_bits(2048, one, 100, 10**8, 10**5)
    assert evaluation_noise_bits(2048, one, 100, 4 * 10**8, 2 * 10**5) == pytest.approx(base + 1, abs=1e-6)
    assert evaluation_noise_bits(2048, one, 200, 10**8, 10**5) > base
    assert evaluation_noise_bits(4096, two, 100, 10**8, 10**5) < base - 2
    assert switch_noise_bits(4096, 40.0, 1 << 30) == pytest.approx(10.5, abs=0.6)
    assert ckks_error(8192, 256, 40) < ckks_error(8192, 4095, 40) < 1e-4
