"""The plan of an encrypted head: ring, modulus, precision and layout, and every number that follows from them.

Pure arithmetic: it needs no SEAL. `planner` chooses plans; this module derives, checks and reads them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from rhe_parties.errors import FailureCode, ParameterError, SchemeError, unknown_name
from rhe_parties.he.layout import Layout
from rhe_parties.he.levelled_layout import LevelledSize, levelled_layout, levelled_size
from rhe_parties.he.noise import FAILURE_BITS
from rhe_parties.he.precision import (
    leaves_room,
    levelled_error,
    lifted_columns,
    logit_errors,
    reply_noise,
    rotated_dot_error,
)
from rhe_parties.he.primes import ntt_primes
from rhe_parties.he.security import MAX_MODULUS_BITS, check_security
from rhe_parties.he.sizes import polynomial_bytes
from rhe_parties.types import IntArray

__all__ = [
    "CKKS_SCALE_BITS",
    "FINE_BITS",
    "MAX_BATCH",
    "MAX_CLASSES",
    "MAX_FEATURES",
    "MAX_HIDDEN",
    "MIN_MARGIN",
    "SCHEMES",
    "WORD_BYTES",
    "HeadPlan",
    "check_integer",
    "check_request",
    "check_sound",
    "complete_plan",
]

SCHEMES = ("bfv", "ckks", "plain")
MAX_FEATURES, MAX_CLASSES, MAX_HIDDEN, MAX_BATCH = 4096, 1000, 4096, 1000
MAX_LAYERS = 3
CKKS_SCALE_BITS = 40
WORD_BYTES = (4, 5, 6, 7)
"""Bytes of one coefficient in a reply that a plan may use."""
MIN_MARGIN = 1.0
FINE_BITS = 52
"""SEAL decrypts to multiples of q/2^52, so that the key holder sees the noise beside the logit."""
_MAX_PLAIN_BITS, _MAX_FEATURE_BITS = 44, 24
_MAX_DATA_PRIME_BITS = 54


@dataclass(frozen=True)
class HeadPlan:
    """Everything public about one encrypted head; both sides compute with the same plan.

    The fields up to `word_bytes` say what to do. The rest is derived from them, for people and for checks.
    For `ckks` there are no integers: `plain_modulus` and `feature_bits` are 0.
    """

    scheme: str
    features: int
    classes: int
    hidden: tuple[int, ...]
    """Widths of the hidden layers with square activation; empty for a linear head."""
    feature_norm: float
    """Public bound of the Euclidean norm of a feature vector; longer ones are scaled down to it."""
    security: int
    """Bits, by the HomomorphicEncryption.org standard."""
    degree: int
    coeff_modulus: tuple[int, ...]
    """Primes of q in SEAL's order; with more than one the last is only used for encrypting."""
    plain_modulus: int
    """t, a power of two: logits are integers modulo t."""
    feature_bits: int
    """f: a feature vector at the norm bound has the norm 2^f in integers."""
    tile_width: int
    tile_classes: int
    batch: int
    """Inputs in one request polynomial."""
    word_bytes: int
    """Bytes of one coefficient of a reply on the wire: its highest bits."""

    columns: int
    """Width of the packed head, the constant included."""
    feature_tiles: int
    class_tiles: int
    check_count: int
    """Masked coefficients of each reply polynomial that only show its noise, so that a wrong key shows."""
    noise_bits: float
    """log2 of the bound on the noise of a reply."""
    margin_bits: float
    """How far that bound stays below what decryption tolerates."""
    logit_error: float
    """Expected root mean square error of a trained head's logits, relative to their own root mean square."""
    key_bytes: int
    evaluation_key_bytes: int
    head_bytes: int
    head_memory_bytes: int
    """The encrypted head at the host, ready for products."""
    request_bytes: int
    reply_bytes: int
    """Expected bytes on the wire: public key, evaluation keys, head, one full request, its reply."""

    @cached_property
    def layout(self) -> Layout:
        """The packing of this plan."""
        return Layout(
            degree=self.degree,
            columns=self.columns,
            classes=self.classes,
            tile_width=self.tile_width,
            tile_classes=self.tile_classes,
            batch=self.batch,
        )

    @cached_property
    def check_positions(self) -> IntArray:
        """Coefficients, int64 [check_count], that hold no logit and go on the wire with a fresh mask."""
        used = self.layout.output_positions(0, self.batch)
        free = np.setdiff1d(np.arange(self.degree, dtype=np.int64), used)
        return free[: self.check_count]

    @property
    def head_ciphertexts(self) -> int:
        """Ciphertexts of an encrypted head."""
        if self.scheme == "ckks" and self.hidden:
            return levelled_layout(self.features, self.classes, self.hidden, self.degree).head_ciphertexts
        return self.class_tiles * self.feature_tiles

    @property
    def prime(self) -> int:
        """q, the prime that ciphertexts of the head live on."""
        return self.coeff_modulus[0]

    @property
    def data_primes(self) -> tuple[int, ...]:
        """The primes that a ciphertext of the head lives on."""
        return self.coeff_modulus if len(self.coeff_modulus) == 1 else self.coeff_modulus[:-1]

    @property
    def reply_shift(self) -> int:
        """Low bits of a residue that do not go on the wire."""
        return max(0, self.prime.bit_length() - 8 * self.word_bytes)

    @property
    def plain_bits(self) -> int:
        """log2 t."""
        return self.plain_modulus.bit_length() - 1

    def identity(self) -> bytes:
        """Canonical bytes of the fields that say what to do; equal for equal plans on every machine."""
        return json.dumps([getattr(self, name) for name in _PRIMARY], separators=(",", ":")).encode()

    def to_dict(self) -> dict[str, object]:
        """The plan as JSON-ready values."""
        values: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        values["coeff_modulus"], values["hidden"] = list(self.coeff_modulus), list(self.hidden)
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


_PRIMARY = tuple(field.name for field in fields(HeadPlan)[:14])


def check_request(
    features: object, classes: object, hidden: object, feature_norm: object, security: object, scheme: object
) -> None:
    """Raise unless the wishes are of the right type and within the limits of the scheme.

    Raises:
        ParameterError: names the value and what is allowed.
    """
    if scheme not in SCHEMES:
        raise unknown_name("scheme", str(scheme)[:40], SCHEMES)
    most = MAX_FEATURES - 1 if scheme == "ckks" else MAX_FEATURES
    check_integer("features", features, most)
    check_integer("classes", classes, MAX_CLASSES)
    if not isinstance(hidden, tuple | list) or len(hidden) >= MAX_LAYERS:
        raise ParameterError(f"hidden {str(hidden)[:40]} is not allowed (allowed: up to {MAX_LAYERS - 1} widths)")
    for width in hidden:
        check_integer("hidden", width, MAX_HIDDEN)
    if len(hidden) > 1 and scheme != "ckks":
        raise ParameterError(
            f"scheme {scheme!r} takes one hidden layer at most, {len(hidden)} were given (three layers: scheme 'ckks')"
        )
    if security not in MAX_MODULUS_BITS or isinstance(security, bool):
        allowed = ", ".join(map(str, MAX_MODULUS_BITS))
        raise ParameterError(f"security {str(security)[:40]} is not allowed (allowed: {allowed} bits)")
    norm = feature_norm
    if isinstance(norm, bool) or not isinstance(norm, int | float) or not 2.0**-20 <= norm <= 2.0**20:
        raise ParameterError(f"feature_norm {str(norm)[:40]} is not allowed (allowed: 2^-20 to 2^20)")


def check_integer(name: str, value: object, most: int, least: int = 1) -> int:
    """The value if it is a whole number from `least` to `most`.

    Raises:
        ParameterError: names the value, the limits and the nearest allowed value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        near = f"; nearest: {min(max(value, least), most)}" if type(value) is int else ""
        allowed = f"whole numbers {least} to {most}{near}"
        raise ParameterError(f"{name} {str(value)[:40]} is not allowed (allowed: {allowed})")
    return value


def complete_plan(
    scheme: str, features: int, classes: int, hidden: tuple[int, ...], norm: float, security: int,
    degree: int, primes: tuple[int, ...], modulus: int, feature_bits: int,
    width: int, tile_classes: int, batch: int, word_bytes: int,
) -> HeadPlan:  # fmt: skip
    """Derive every other number of a plan from the fields that say what to do."""
    choices = (
        scheme, features, classes, hidden, norm, security, degree, primes, modulus, feature_bits,
        width, tile_classes, batch, word_bytes,
    )  # fmt: skip
    if scheme == "ckks":
        return _complete_ckks(choices)
    columns = lifted_columns(features, hidden)
    layout = Layout(degree, columns, classes, width, tile_classes, batch)
    tiles = layout.class_tiles * layout.feature_tiles
    shift = max(0, primes[0].bit_length() - 8 * word_bytes)
    support = min(degree, (batch - 1) * layout.stride + width)
    outputs = layout.class_tiles
    noise = round(
        reply_noise(degree, primes, support, outputs, features, hidden, feature_bits, batch, shift), 3
    )  # fmt: skip
    margin = round(math.log2(primes[0]) - 1 - math.log2(modulus) - noise, 3)
    checks = _check_count(layout, margin)
    key = polynomial_bytes(degree, primes, 2)
    head = tiles * polynomial_bytes(degree, primes[:1], 2)
    words = degree + batch * min(tile_classes, classes) + checks
    reply = outputs * (words * word_bytes + 16)
    if scheme == "plain":
        key, head, reply = 16, tiles * degree * 8, batch * classes * 8
    return HeadPlan(
        *choices, columns, layout.feature_tiles, layout.class_tiles, checks, noise, margin,
        round(logit_errors(hidden, feature_bits, modulus), 9), key, 0, head, tiles * degree * 16,
        4 * features * batch, reply,
    )  # fmt: skip


def _check_count(layout: Layout, margin: float) -> int:
    """Masked coefficients needed beside the logits of a single input: a foreign key passes with 2^-40 at most."""
    if margin < MIN_MARGIN:
        return 0
    fewest = layout.classes - (layout.class_tiles - 1) * layout.tile_classes
    return max(0, math.ceil(FAILURE_BITS / margin) - fewest)


def _complete_ckks(choices: tuple[Any, ...]) -> HeadPlan:
    _, features, classes, hidden, _, _, degree, primes, *_ = choices
    if hidden:
        size: LevelledSize = levelled_size(features, classes, hidden, degree, primes)
        class_tiles = levelled_layout(features, classes, hidden, degree).class_tiles
        error = levelled_error(size.error, len(hidden))
    else:
        key = polynomial_bytes(degree, primes, 2)
        # TenSEAL rotates by powers of two in both directions and conjugates; one key per data prime.
        rotations = 2 * (degree.bit_length() - 2)
        size = LevelledSize(
            key_bytes=key,
            evaluation_key_bytes=rotations * (len(primes) - 1) * key,
            head_bytes=classes * polynomial_bytes(degree, primes[:-1], 2),
            head_memory_bytes=classes * 16 * degree * (len(primes) - 1),
            reply_bytes=classes * polynomial_bytes(degree, primes[:1], 2),
            error=0.0,
        )
        error, class_tiles = rotated_dot_error(degree, features, CKKS_SCALE_BITS), classes
    derived = {
        "columns": features + 1, "feature_tiles": 1, "class_tiles": class_tiles, "check_count": 0,
        "noise_bits": 0.0, "margin_bits": 0.0, "logit_error": round(error, 9), "key_bytes": size.key_bytes,
        "evaluation_key_bytes": size.evaluation_key_bytes, "head_bytes": size.head_bytes,
        "head_memory_bytes": size.head_memory_bytes, "request_bytes": 4 * features, "reply_bytes": size.reply_bytes,
    }  # fmt: skip
    return HeadPlan(**dict(zip(_PRIMARY, choices, strict=True)), **derived)


def _checked(values: Mapping[str, object]) -> HeadPlan:
    names = {field.name for field in fields(HeadPlan)}
    if not isinstance(values, Mapping) or set(values) not in (names, set(_PRIMARY)):
        raise ParameterError("the keys are not exactly those of a plan")
    scheme, norm, hidden = values["scheme"], values["feature_norm"], values["hidden"]
    check_request(values["features"], values["classes"], hidden, norm, values["security"], scheme)
    given: Any = values
    widths = tuple(given["hidden"])
    request = (given["features"], given["classes"], widths, float(given["feature_norm"]), given["security"])
    degree = check_integer("degree", values["degree"], max(MAX_MODULUS_BITS[128]))
    primes = _checked_primes(values["coeff_modulus"], degree, given["security"])
    if scheme == "ckks":
        from rhe_parties.he.planner import ckks_plan

        plan = ckks_plan(*request)
    else:
        columns = lifted_columns(request[0], widths)
        plan = complete_plan(
            str(scheme), *request, degree, primes,
            check_integer("plain_modulus", values["plain_modulus"], 1 << _MAX_PLAIN_BITS, 2),
            check_integer("feature_bits", values["feature_bits"], _MAX_FEATURE_BITS, 2),
            check_integer("tile_width", values["tile_width"], columns),
            check_integer("tile_classes", values["tile_classes"], request[1]),
            check_integer("batch", values["batch"], degree),
            check_integer("word_bytes", values["word_bytes"], WORD_BYTES[-1], WORD_BYTES[0]),
        )  # fmt: skip
        check_sound(plan)
    for name in values:
        _compare(name, values[name], getattr(plan, name))
    return plan


def _checked_primes(given: object, degree: int, security: int) -> tuple[int, ...]:
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= 12:
        raise ParameterError("coeff_modulus is not a list of 1 to 12 primes")
    primes = tuple(check_integer("coeff_modulus", prime, (1 << 60) - 1, 3) for prime in given)
    check_security(degree, math.prod(primes).bit_length(), security)
    if primes != ntt_primes(degree, tuple(prime.bit_length() for prime in primes)):
        raise ParameterError("coeff_modulus is not SEAL's choice of primes for these sizes")
    return primes


def check_sound(plan: HeadPlan) -> None:
    """Raise unless an integer plan decrypts correctly and shows wrong keys.

    Raises:
        ParameterError: says which condition fails.
    """
    if len(plan.coeff_modulus) > 2 or not FINE_BITS < plan.prime.bit_length() <= _MAX_DATA_PRIME_BITS:
        raise ParameterError(f"coeff_modulus needs one data prime of {FINE_BITS + 1} or {_MAX_DATA_PRIME_BITS} bits")
    if plan.plain_modulus & (plan.plain_modulus - 1):
        raise ParameterError(f"plain_modulus {plan.plain_modulus} is not a power of two")
    if plan.batch * plan.tile_classes * plan.tile_width > plan.degree:
        raise ParameterError("batch · tile_classes · tile_width exceeds the ring degree")
    if plan.margin_bits < MIN_MARGIN:
        raise ParameterError(
            f"the noise margin of {plan.margin_bits} bits at a failure probability of 2^-{FAILURE_BITS} "
            f"is too small (allowed: {MIN_MARGIN} or more)"
        )
    if plan.degree - plan.batch * plan.tile_classes < plan.check_count:
        raise ParameterError("the layout leaves no coefficients that show a wrong key")
    if not leaves_room(plan.features, plan.hidden, plan.feature_bits, plan.plain_modulus):
        raise ParameterError("plain_modulus leaves no bits for the weights")


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
