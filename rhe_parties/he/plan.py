"""The planner: which ring, modulus, precision and layout an encrypted head gets, and why.

Pure arithmetic: it needs no SEAL.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache

from rhe_parties.errors import FailureCode, ParameterError, SchemeError, unknown_name
from rhe_parties.he.layout import Layout
from rhe_parties.he.noise import FAILURE_BITS, ckks_error, evaluation_noise_bits, switch_noise_bits
from rhe_parties.he.primes import ntt_primes
from rhe_parties.he.security import MAX_MODULUS_BITS, check_security
from rhe_parties.he.sizes import polynomial_bytes

__all__ = ["CKKS_SCALE_BITS", "MAX_CLASSES", "MAX_FEATURES", "SCHEMES", "HeadPlan", "plan_head"]

SCHEMES = ("bfv", "ckks", "plain")
MAX_FEATURES = 4096
MAX_CLASSES = 1000
CKKS_SCALE_BITS = 40

_CKKS_DEGREE, _CKKS_BITS = 8192, (60, 40, 60)
_CANDIDATES = ((2048, (54,)), (4096, (60, 30)), (4096, (50, 30, 29)))
"""Rings in the order of their cost; the last prime of several is used for encrypting only."""
_MIN_FEATURE_BITS, _MIN_WEIGHT_BITS = 9, 10
_MIN_MARGIN = 2.0
_MAX_PLAIN_BITS = 45
# The head that precision is planned for: Gaussian weights whose largest is 4 standard deviations,
# features with a root mean square of a quarter of their bound.
_PEAK, _MEAN_ABS, _FEATURE_RMS = 4.0, math.sqrt(2 / math.pi), 0.25


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """Everything public about one encrypted head; both sides compute with the same plan.

    The fields up to `batch` say what to do. The rest is derived from them, for people and for checks.
    For `ckks` there are no integers: `plain_modulus`, `feature_bits` and `weight_bits` are 0.
    """

    scheme: str
    features: int
    classes: int
    feature_bound: float
    """Public power of two; features beyond it are saturated (in units of the features)."""
    degree: int
    coeff_modulus: tuple[int, ...]
    """Primes of q in SEAL's order; with more than one the last is only used for encrypting."""
    plain_modulus: int
    """t, a power of two."""
    feature_bits: int
    """Signed bits of a quantised feature: its magnitude is at most 2^(feature_bits - 1)."""
    tile_width: int
    tile_classes: int
    batch: int
    """Inputs in one request polynomial."""
    reply_primes: int
    """Primes of q that are left in the reply."""

    weight_bits: int
    """Signed bits of the largest weight of a Gaussian head (a head's own scale fills t exactly)."""
    feature_tiles: int
    class_tiles: int
    noise_bits: float
    """log2 of the bound on the noise of a reply."""
    margin_bits: float
    """How far that bound stays below what decryption tolerates."""
    logit_error: float
    """Expected root mean square error of a Gaussian head's logits, relative to their own root mean square."""
    key_bytes: int
    evaluation_key_bytes: int
    head_bytes: int
    request_bytes: int
    reply_bytes: int
    """Expected bytes on the wire: public key, evaluation keys, head, one input, its reply."""

    @property
    def layout(self) -> Layout:
        """The packing of this plan."""
        return Layout(
            degree=self.degree,
            columns=self.features + 1,
            classes=self.classes,
            tile_width=self.tile_width,
            tile_classes=self.tile_classes,
            batch=self.batch,
        )

    @property
    def feature_limit(self) -> int:
        """Largest magnitude of a quantised feature."""
        return 1 << (self.feature_bits - 1)

    @property
    def data_primes(self) -> tuple[int, ...]:
        """The primes that a ciphertext of the head lives on."""
        return self.coeff_modulus if len(self.coeff_modulus) == 1 else self.coeff_modulus[:-1]

    @property
    def budget_floor(self) -> int:
        """Noise budget in whole bits of every honest reply (SEAL rounds down by up to one bit)."""
        return max(1, math.floor(self.margin_bits) - 1)

    def identity(self) -> bytes:
        """Canonical bytes of the fields that say what to do; equal for equal plans on every machine."""
        return json.dumps([getattr(self, name) for name in _PRIMARY], separators=(",", ":")).encode()

    def to_dict(self) -> dict[str, object]:
        """The plan as JSON-ready values."""
        values: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        values["coeff_modulus"] = list(self.coeff_modulus)
        return values

    def choices(self) -> dict[str, object]:
        """The fields that say what to do, which is all that travels; `from_dict` derives the rest again."""
        return {name: value for name, value in self.to_dict().items() if name in _PRIMARY}

    def twin(self) -> HeadPlan:
        """The same plan without encryption (scheme `plain`)."""
        return HeadPlan.from_dict(self.choices() | {"scheme": "plain"})

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> HeadPlan:
        """The plan of untrusted values: of its choices alone, or of every field.

        Every derived number is computed again, and compared where it is given.

        Raises:
            SchemeError: a key is missing or unknown, a value has the wrong type or is out of range, the
                parameters are below 128-bit security, the noise bound does not hold, or a derived number
                differs.
        """
        try:
            return _checked(values)
        except (ParameterError, ValueError, TypeError, OverflowError) as error:
            text = f"not a valid plan of an encrypted head: {error}"
            raise SchemeError(FailureCode.MALFORMED, text) from None

    def describe(self) -> list[tuple[str, str, str]]:
        """Rows (what, value, why) for a table."""
        from rhe_parties.he.describe import plan_rows

        return plan_rows(self)


_PRIMARY = tuple(field.name for field in fields(HeadPlan)[:12])


def plan_head(features: int, classes: int, feature_bound: float, scheme: str = "bfv") -> HeadPlan:
    """Plan the head for D features and K classes in the latency layout (one input per request).

    The smallest ring is taken that leaves at least 9 bits for features and 10 for weights; within it the
    precision with the least expected logit error whose noise bound holds.

    Args:
        features: D, 1 to 4096 (4095 for `ckks`, where the bias takes the last slot).
        classes: K, 1 to 1000.
        feature_bound: public power of two (2^-20 to 2^20) that features seldom exceed.
        scheme: `plain`, `bfv` or `ckks`.

    Raises:
        ParameterError: a value is out of range or the scheme is unknown.
    """
    _check_request(features, classes, feature_bound, scheme)
    return _plan(features, classes, float(feature_bound), scheme)


@lru_cache(maxsize=256)
def _plan(features: int, classes: int, bound: float, scheme: str) -> HeadPlan:
    if scheme == "ckks":
        primes = ntt_primes(_CKKS_DEGREE, _CKKS_BITS)
        return _complete(scheme, features, classes, bound, _CKKS_DEGREE, primes, 0, 0, features + 1, 1, 1, 1)
    for degree, bits in _CANDIDATES:
        primes = ntt_primes(degree, bits)
        width, tile_classes = _choose_tiles(degree, features + 1, classes)
        layout = Layout(degree, features + 1, classes, width, tile_classes, 1)
        precision = _choose_precision(layout, primes)
        if precision is None:
            continue
        limit, plain_bits, reply = precision
        return _complete(
            scheme, features, classes, bound, degree, primes, 1 << plain_bits,
            limit.bit_length(), width, tile_classes, 1, reply,
        )  # fmt: skip
    raise ParameterError(f"no parameters fit a head of {features} features and {classes} classes")


def _check_request(features: object, classes: object, bound: object, scheme: object) -> None:
    if scheme not in SCHEMES:
        raise unknown_name("scheme", str(scheme)[:40], SCHEMES)
    most = MAX_FEATURES - 1 if scheme == "ckks" else MAX_FEATURES
    _check_integer("features", features, most)
    _check_integer("classes", classes, MAX_CLASSES)
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not 2.0**-20 <= bound <= 2.0**20:
        raise ParameterError(f"feature_bound {str(bound)[:40]} is not allowed (allowed: 2^-20 to 2^20)")
    if math.frexp(bound)[0] != 0.5:
        close = 2.0 ** round(math.log2(bound))
        raise ParameterError(f"feature_bound {bound} is not a power of two (nearest: {close})")


def _check_integer(name: str, value: object, most: int, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        allowed = f"whole numbers {least} to {most}"
        raise ParameterError(f"{name} {str(value)[:40]} is not allowed (allowed: {allowed})")
    return value


def _choose_tiles(degree: int, columns: int, classes: int) -> tuple[int, int]:
    """(w, c) of least predicted cost for one input; costs are microseconds measured at N=2048 on one core."""
    best: tuple[float, int, int] | None = None
    for tile_classes in range(1, min(classes, degree) + 1):
        outputs = -(-classes // tile_classes)
        if -(-classes // outputs) != tile_classes:
            continue  # a smaller tile gives the same number of outputs and more room for features
        tiles = -(-columns // (degree // tile_classes))
        # Encode and transform a feature tile; one product; transform, mask, serialise and send an output.
        cost = 47.0 * tiles + 17.0 * tiles * outputs + 500.0 * outputs
        width = -(-columns // tiles)
        if best is None or cost < best[0]:
            best = (cost, width, tile_classes)
    if best is None:  # unreachable for checked arguments
        raise ParameterError(f"no layout for {classes} classes at ring degree {degree}")
    return best[1], best[2]


def _choose_precision(layout: Layout, primes: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(feature limit, bits of t, reply primes) with enough bits and the least expected logit error."""
    best: tuple[float, int, int, int] | None = None
    for limit_bits in range(_MIN_FEATURE_BITS - 1, 20):
        limit = 1 << limit_bits
        for plain_bits in range(_MAX_PLAIN_BITS, 8, -1):
            reply = _reply_primes(layout, primes, limit, 1 << plain_bits)
            if reply is None:
                continue
            if _weight_bits(layout.columns - 1, limit, 1 << plain_bits) < _MIN_WEIGHT_BITS:
                break
            error = _logit_error(layout.columns - 1, limit, 1 << plain_bits)
            if best is None or error < best[0]:
                best = (error, limit, plain_bits, reply)
            break
    return None if best is None else best[1:]


@lru_cache(maxsize=4096)
def _noise(layout: Layout, primes: tuple[int, ...], limit: int, reply_primes: int) -> float:
    columns = layout.batch * layout.columns
    norm2, norm1 = columns * limit * limit, columns * limit
    support, outputs = layout.batch * layout.tile_width, layout.class_tiles
    noise = evaluation_noise_bits(layout.degree, primes, support, norm2, norm1, outputs)
    data = primes if len(primes) == 1 else primes[:-1]
    for dropped in reversed(data[reply_primes:]):
        noise = switch_noise_bits(layout.degree, noise, dropped, outputs)
    return noise


def _margin(layout: Layout, primes: tuple[int, ...], limit: int, modulus: int, reply_primes: int) -> float:
    """Smallest margin in bits before and after switching to the modulus of the reply."""
    data = primes if len(primes) == 1 else primes[:-1]
    return min(
        math.log2(math.prod(data[:left])) - 1 - math.log2(modulus) - _noise(layout, primes, limit, left)
        for left in {len(data), reply_primes}
    )


def _reply_primes(layout: Layout, primes: tuple[int, ...], limit: int, modulus: int) -> int | None:
    """Fewest primes that the reply can be switched down to, or None when not even all of them are enough."""
    most = max(1, len(primes) - 1)
    for left in range(1, most + 1):
        if math.prod(primes[:left]) <= 2 * modulus:
            continue
        if _margin(layout, primes, limit, modulus, left) >= _MIN_MARGIN:
            return left
    return None


def _weight_bits(features: int, limit: int, modulus: int) -> int:
    steps = _PEAK * (modulus / 2) / (_MEAN_ABS * features * limit)
    return 1 + math.floor(math.log2(steps)) if steps >= 1 else 0


def _logit_error(features: int, limit: int, modulus: int) -> float:
    """Relative error of rounding features and weights to integers (uniform errors, variance 1/12)."""
    from_features = 1 / (limit * _FEATURE_RMS)
    from_weights = _MEAN_ABS * features * limit / (modulus / 2)
    return math.hypot(from_features, from_weights) / math.sqrt(12)


def _complete(
    scheme: str, features: int, classes: int, bound: float, degree: int, primes: tuple[int, ...],
    modulus: int, feature_bits: int, width: int, tile_classes: int, batch: int, reply_primes: int,
) -> HeadPlan:  # fmt: skip
    """Derive every other number of a plan from the fields that say what to do."""
    layout = Layout(degree, features + 1, classes, width, tile_classes, batch)
    data = primes if len(primes) == 1 else primes[:-1]
    tiles = layout.class_tiles * layout.feature_tiles
    if scheme == "ckks":
        noise, margin, weight_bits = 0.0, 0.0, 0
        # Errors are relative to the largest possible logit; a Gaussian head's are smaller by this factor.
        spread = _MEAN_ABS / _FEATURE_RMS * math.sqrt(features)
        error = spread * ckks_error(degree, features, CKKS_SCALE_BITS)
    else:
        limit = 1 << (feature_bits - 1)
        noise = round(_noise(layout, primes, limit, reply_primes), 3)
        margin = round(_margin(layout, primes, limit, modulus, reply_primes), 3)
        weight_bits, error = _weight_bits(features, limit, modulus), _logit_error(features, limit, modulus)
    if scheme == "plain":
        key, evaluation, head, reply = 16, 0, tiles * degree * 8, layout.class_tiles * degree * 8
    else:
        key = polynomial_bytes(degree, primes, 2)
        # TenSEAL rotates by powers of two in both directions and conjugates; one key per data prime.
        rotations = 2 * (degree.bit_length() - 2)
        evaluation = rotations * len(data) * key if scheme == "ckks" else 0
        head = tiles * polynomial_bytes(degree, data, 2)
        reply = layout.class_tiles * polynomial_bytes(degree, data[:reply_primes], 2)
    return HeadPlan(
        scheme, features, classes, bound, degree, primes, modulus, feature_bits, width, tile_classes, batch,
        reply_primes, weight_bits, layout.feature_tiles, layout.class_tiles, noise, margin, round(error, 9),
        key, evaluation, head, 4 * features * batch, reply,
    )  # fmt: skip


def _checked(values: Mapping[str, object]) -> HeadPlan:
    names = {field.name for field in fields(HeadPlan)}
    if not isinstance(values, Mapping) or set(values) not in (names, set(_PRIMARY)):
        raise ParameterError("the keys are not exactly those of a plan")
    scheme, bound = values["scheme"], values["feature_bound"]
    _check_request(values["features"], values["classes"], bound, scheme)
    degree = _check_integer("degree", values["degree"], max(MAX_MODULUS_BITS[128]))
    features = _check_integer("features", values["features"], MAX_FEATURES)
    classes = _check_integer("classes", values["classes"], MAX_CLASSES)
    primes = _checked_primes(values["coeff_modulus"], degree)
    if scheme == "ckks":
        plan = _plan(features, classes, float(bound), "ckks")  # type: ignore[arg-type]
    else:
        plan = _complete(
            str(scheme), features, classes, float(bound), degree, primes,  # type: ignore[arg-type]
            _check_integer("plain_modulus", values["plain_modulus"], 1 << _MAX_PLAIN_BITS, 2),
            _check_integer("feature_bits", values["feature_bits"], 20, 2),
            _check_integer("tile_width", values["tile_width"], features + 1),
            _check_integer("tile_classes", values["tile_classes"], classes),
            _check_integer("batch", values["batch"], degree),
            _check_integer("reply_primes", values["reply_primes"], max(1, len(primes) - 1)),
        )  # fmt: skip
        _check_sound(plan)
    for name in values:
        _compare(name, values[name], getattr(plan, name))
    return plan


def _checked_primes(given: object, degree: int) -> tuple[int, ...]:
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= 8:
        raise ParameterError("coeff_modulus is not a list of 1 to 8 primes")
    primes = tuple(_check_integer("coeff_modulus", prime, (1 << 60) - 1, 3) for prime in given)
    check_security(degree, math.prod(primes).bit_length())
    if primes != ntt_primes(degree, tuple(prime.bit_length() for prime in primes)):
        raise ParameterError("coeff_modulus is not SEAL's choice of primes for these sizes")
    return primes


def _check_sound(plan: HeadPlan) -> None:
    if plan.plain_modulus & (plan.plain_modulus - 1):
        raise ParameterError(f"plain_modulus {plan.plain_modulus} is not a power of two")
    if plan.batch * plan.tile_classes * plan.tile_width > plan.degree:
        raise ParameterError("batch · tile_classes · tile_width exceeds the ring degree")
    if plan.margin_bits < _MIN_MARGIN:
        raise ParameterError(
            f"the noise margin of {plan.margin_bits} bits at a failure probability of 2^-{FAILURE_BITS} "
            f"is too small (allowed: {_MIN_MARGIN} or more)"
        )
    if plan.plain_modulus // 2 <= (plan.features + 2) * plan.feature_limit:
        raise ParameterError("plain_modulus leaves no bit for the weights")


def _compare(name: str, given: object, derived: object) -> None:
    if isinstance(derived, float):
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise ParameterError(f"{name} is not a number")
        same = abs(given - derived) <= 2e-3
    else:
        same = (tuple(given) if isinstance(given, list) else given) == derived and not isinstance(given, bool)
    if not same:
        text = f"does not follow from the other values (expected {derived})"
        raise ParameterError(f"{name} {str(given)[:40]} {text}")
