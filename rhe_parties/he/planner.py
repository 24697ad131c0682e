"""The planner: for D features, K classes, hidden layers and a batch, the cheapest plan that meets every wish.

All rings of the security level, all tilings and all word sizes are weighed with one cost model; what lost is
kept with its reason. Pure arithmetic, no SEAL.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from rhe_parties.errors import ParameterError
from rhe_parties.he.levelled_layout import levelled_milliseconds, levelled_parameters
from rhe_parties.he.noise import FAILURE_BITS
from rhe_parties.he.plan import (
    FINE_BITS,
    MAX_BATCH,
    MIN_MARGIN,
    WORD_BYTES,
    HeadPlan,
    check_integer,
    check_request,
    check_sound,
    complete_plan,
)
from rhe_parties.he.precision import leaves_room, lifted_columns, logit_errors, reply_noise
from rhe_parties.he.primes import ntt_primes

__all__ = ["DEFAULT_LOGIT_ERROR", "Candidate", "ckks_plan", "plan_head", "predicted_microseconds", "weigh"]

DEFAULT_LOGIT_ERROR = 0.005
MEMORY_LIMIT_BYTES = 1 << 30
"""Largest encrypted head, ready for products, that the planner accepts at the host."""

# Rings by security level; the second prime is only used for encrypting. A second data prime never pays: the
# precision of every head fits one.
_RINGS: dict[int, tuple[tuple[int, tuple[int, ...]], ...]] = {
    128: ((2048, (54,)), (4096, (54, 40))),
    192: ((4096, (54, 21)), (8192, (54, 40))),
    256: ((4096, (54,)), (8192, (54, 40))),
}
_CKKS_DEGREE, _CKKS_BITS = 8192, (60, 40, 60)
_FEATURE_BITS = range(6, 22)
_MAX_PLAIN_BITS = 44

# Cost in microseconds on one core, from the compiled evaluator at N=2048 (`rhe bench head`).
_TRANSFORM, _PRODUCT = 4.5, 0.00017  # per transform, per modular product
_PACK, _LIFT = 0.04, 0.0008  # per input and tile, per lifted column
_OPEN, _CALL = 250.0, 25.0  # key holder: one reply polynomial; host: one call
_WIRE = 0.008  # per byte, at 1 Gbit/s
_ENCRYPT, _LIFETIME = 1250.0, 1000  # per ciphertext of the head, spread over that many batches
_ROTATED_DOT = 1300.0  # TenSEAL, per class and rotation


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way that was weighed: what it is, what it costs for one batch, and why it lost ("" for the winner)."""

    what: str
    plan: HeadPlan | None
    microseconds: float
    reason: str


def plan_head(
    features: int,
    classes: int,
    hidden: tuple[int, ...] = (),
    batch: int = 1,
    logit_error: float | None = None,
    security: int = 128,
    scheme: str | None = None,
    feature_norm: float = 16.0,
) -> HeadPlan:
    """The cheapest plan for D features and K classes that meets every wish.

    Args:
        features: D, 1 to 4096 (4095 for `ckks`, where the bias takes the last slot).
        classes: K, 1 to 1000.
        hidden: widths of hidden layers with square activation: none, one, or two (`ckks` only).
        batch: inputs that a request usually brings, 1 to 1000; it decides the layout. Any number of inputs works.
        logit_error: relative root mean square error of the logits that is still fine; None asks for 0.005, or the
            best there is.
        security: 128, 192 or 256 bits.
        scheme: `bfv`, `ckks`, `plain`, or None for the cheaper of `bfv` and `ckks`.
        feature_norm: public bound (2^-20 to 2^20) of the Euclidean norm of a feature vector.

    Raises:
        ParameterError: a value is out of range, the scheme is unknown, or no plan meets the wishes; the message
            names the nearest possible wish.
    """
    found = weigh(features, classes, hidden, batch, logit_error, security, scheme, feature_norm)
    if found[0].plan is None or found[0].reason:
        raise ParameterError(_nearest(found, logit_error))
    return found[0].plan


def weigh(
    features: int,
    classes: int,
    hidden: tuple[int, ...] = (),
    batch: int = 1,
    logit_error: float | None = None,
    security: int = 128,
    scheme: str | None = None,
    feature_norm: float = 16.0,
) -> tuple[Candidate, ...]:
    """Every alternative for the same wishes as `plan_head`, the winner first.

    Raises:
        ParameterError: a value is out of range or the scheme is unknown.
    """
    widths = _check_wishes(features, classes, hidden, batch, logit_error, security, scheme, feature_norm)
    return _weigh(features, classes, widths, batch, logit_error, security, scheme, float(feature_norm))


def ckks_plan(
    features: int, classes: int, hidden: tuple[int, ...], feature_norm: float, security: int
) -> HeadPlan:  # fmt: skip
    """The one plan of scheme `ckks`: the paper's parameters, or the levelled path for hidden layers.

    Raises:
        ParameterError: another security level than 128 bits.
    """
    if security != 128:
        raise ParameterError(f"scheme 'ckks' is set up for 128-bit security, not {security} (allowed: 128)")
    if hidden:
        degree, primes = levelled_parameters(features, classes, hidden)
    else:
        degree, primes = _CKKS_DEGREE, ntt_primes(_CKKS_DEGREE, _CKKS_BITS)
    return complete_plan(
        "ckks", features, classes, hidden, feature_norm, security, degree, primes, 0, 0, features + 1, 1, 1, 0
    )  # fmt: skip


def predicted_microseconds(plan: HeadPlan, inputs: int) -> float:
    """Predicted time of `inputs` predictions on one core after the backbone: host, wire and key holder.

    Encrypting the head is spread over a thousand such batches.
    """
    requests = -(-inputs // plan.batch)
    if plan.scheme == "ckks":
        if plan.hidden:
            shape = (plan.features, plan.classes, plan.hidden, plan.degree, plan.coeff_modulus)
            each = 1000 * levelled_milliseconds(*shape)
        else:
            each = plan.classes * _ROTATED_DOT * math.ceil(math.log2(plan.features + 1))
        return inputs * (each + plan.reply_bytes * _WIRE)
    scale = plan.degree / 2048
    transform = _TRANSFORM * scale * (plan.degree.bit_length() - 1) / 11
    tiles, outputs = plan.feature_tiles, plan.class_tiles
    work = tiles * transform + outputs * 2 * transform + tiles * outputs * 2 * plan.degree * _PRODUCT
    work += plan.batch * tiles * _PACK + (plan.batch * plan.columns * _LIFT if plan.hidden else 0.0)
    opening = outputs * (_OPEN * scale + plan.reply_bytes / max(1, outputs) * _WIRE)
    return _CALL + requests * (work + opening) + tiles * outputs * scale * _ENCRYPT / _LIFETIME


def operations(plan: HeadPlan) -> dict[str, int]:
    """Ring operations of the host for one request polynomial: transforms and modular multiply-accumulates."""
    tiles, outputs = plan.feature_tiles, plan.class_tiles
    return {"transforms": tiles + 2 * outputs, "products": tiles * outputs * 2 * plan.degree}


def _check_wishes(
    features: object, classes: object, hidden: object, batch: object, logit_error: object,
    security: object, scheme: object, norm: object,
) -> tuple[int, ...]:  # fmt: skip
    default = "ckks" if isinstance(hidden, tuple | list) and len(hidden) > 1 else "bfv"
    check_request(features, classes, hidden, norm, security, default if scheme is None else scheme)
    check_integer("batch", batch, MAX_BATCH)
    error = logit_error
    if error is not None and (isinstance(error, bool) or not isinstance(error, int | float) or not 0 < error <= 1):
        raise ParameterError(f"logit_error {str(error)[:40]} is not allowed (allowed: above 0, up to 1)")
    return tuple(hidden)  # type: ignore[arg-type]


@lru_cache(maxsize=512)
def _weigh(
    features: int, classes: int, hidden: tuple[int, ...], batch: int, logit_error: float | None,
    security: int, scheme: str | None, norm: float,
) -> tuple[Candidate, ...]:  # fmt: skip
    found: list[Candidate] = []
    request = (features, classes, hidden, norm, security)
    if scheme != "ckks" and len(hidden) < 2:
        for degree, bits in _RINGS[security]:
            found += _ring_candidates(scheme or "bfv", request, degree, bits, batch, logit_error)
    if scheme == "ckks" or (scheme is None and security == 128 and features < 4096):
        found.append(_ckks_candidate(request, batch, logit_error))
    fine = sorted((c for c in found if not c.reason), key=lambda c: c.microseconds)
    rest = sorted((c for c in found if c.reason), key=lambda c: c.microseconds)
    if not fine and logit_error is None:  # no precision was asked for: the best there is will do
        usable = [c for c in rest if c.plan is not None and c.reason.startswith("logit error")]
        if usable:
            best = min(usable, key=lambda c: c.plan.logit_error if c.plan else 1.0)
            rest.remove(best)
            fine = [Candidate(best.what, best.plan, best.microseconds, "")]
    losers = [_slower(candidate, fine[0]) for candidate in fine[1:]]
    return (*fine[:1], *losers, *rest)


def _ckks_candidate(
    request: tuple[int, int, tuple[int, ...], float, int], batch: int, wish: float | None
) -> Candidate:  # fmt: skip
    what = "ckks: levelled products" if request[2] else "ckks: a vector per class, rotations"
    try:
        plan = ckks_plan(*request)
    except ParameterError as error:
        return Candidate(what, None, math.inf, str(error))
    return _judge(Candidate(what, plan, predicted_microseconds(plan, batch), ""), wish)


def _slower(loser: Candidate, winner: Candidate) -> Candidate:
    ratio = loser.microseconds / winner.microseconds
    return Candidate(loser.what, loser.plan, loser.microseconds, f"predicted {ratio:.1f} times slower")


def _judge(candidate: Candidate, wish: float | None) -> Candidate:
    """The candidate with its reason to lose, if any wish is not met."""
    plan, allowed = candidate.plan, DEFAULT_LOGIT_ERROR if wish is None else wish
    if plan is None:
        return candidate
    reason = ""
    if plan.head_memory_bytes > MEMORY_LIMIT_BYTES:
        reason = _too_large(plan.head_memory_bytes / 2**30)
    elif plan.logit_error > allowed:
        reason = f"logit error {plan.logit_error:.1e} above {allowed:.1e}"
    return Candidate(candidate.what, plan, candidate.microseconds, reason)


def _too_large(size: float) -> str:
    return f"head of {size:.1f} GiB at the host (allowed: {MEMORY_LIMIT_BYTES / 2**30:g} GiB)"


def _ring_candidates(
    scheme: str, request: tuple[int, int, tuple[int, ...], float, int], degree: int, bits: tuple[int, ...],
    batch: int, wish: float | None,
) -> list[Candidate]:  # fmt: skip
    """For one ring the best layout with few inputs per polynomial, and the best with many."""
    name = f"{'lifted' if request[2] else 'linear'}, N={degree}, q {'+'.join(map(str, bits))} bits"
    best: dict[int, Candidate] = {}
    for width, tile_classes, inputs in _layouts(request[0], request[1], request[2], degree, batch):
        made = _precise(scheme, request, degree, ntt_primes(degree, bits), (width, tile_classes, inputs), wish)
        what = f"{name}, {inputs} input{'s' if inputs > 1 else ''} per polynomial"
        if made is None:
            continue
        judged = _judge(Candidate(what, made, predicted_microseconds(made, batch), ""), wish)
        old = best.get(inputs)
        if old is None or (bool(judged.reason), judged.microseconds) < (bool(old.reason), old.microseconds):
            best[inputs] = judged
    if not best:
        columns = lifted_columns(request[0], request[2])
        least = 16 * columns * request[1] / 2**30
        reason = f"no precision leaves {MIN_MARGIN:g} bit of noise margin and room for the weights"
        if least > MEMORY_LIMIT_BYTES / 2**30:
            reason = _too_large(least)
        return [Candidate(name, None, math.inf, reason)]
    return list(best.values())


def _layouts(
    features: int, classes: int, hidden: tuple[int, ...], degree: int, batch: int
) -> Iterator[tuple[int, int, int]]:  # fmt: skip
    """(w, c, b) worth weighing: b halves from the batch, c gives different numbers of outputs, w fills the ring."""
    columns = lifted_columns(features, hidden)
    inputs = min(batch, degree // 2)
    while True:
        room = (degree - FAILURE_BITS) // inputs
        for outputs in _spread(classes):
            tile_classes = -(-classes // outputs)
            if tile_classes > room:
                continue
            widest = max(1, degree // (inputs * tile_classes))
            tiles = -(-columns // widest)
            yield -(-columns // tiles), tile_classes, inputs
        if inputs == 1:
            return
        inputs = -(-inputs // 2)


def _spread(classes: int) -> list[int]:
    """Numbers of output polynomials that give different tile heights, thinned to a few per octave."""
    counts = {-(-classes // height) for height in range(1, classes + 1)}
    thinned, last = [], 0.0
    for count in sorted(counts):
        if count >= last * 1.08 or count == classes:
            thinned.append(count)
            last = count
    return thinned


@lru_cache(maxsize=65536)
def _precise(
    scheme: str, request: tuple[int, int, tuple[int, ...], float, int], degree: int, primes: tuple[int, ...],
    tiling: tuple[int, int, int], wish: float | None,
) -> HeadPlan | None:  # fmt: skip
    """The plan with the fewest bytes per coefficient that meets the wish, or the most precise there is."""
    features, classes, hidden, norm, security = request
    width, tile_classes, inputs = tiling
    outputs = -(-classes // tile_classes)
    support = min(degree, (inputs - 1) * tile_classes * width + width)
    allowed = DEFAULT_LOGIT_ERROR if wish is None else wish
    best: tuple[float, int, int, int] | None = None
    for word in WORD_BYTES:
        shift = max(0, primes[0].bit_length() - 8 * word)
        for f in _FEATURE_BITS:
            noise = reply_noise(degree, primes, support, outputs, features, hidden, f, inputs, shift)
            plain = min(_MAX_PLAIN_BITS, math.floor(math.log2(primes[0]) - 1 - MIN_MARGIN - round(noise, 3) - 1e-3))
            if not 8 <= plain <= FINE_BITS - 8 or not leaves_room(features, hidden, f, 1 << plain):
                continue
            error = logit_errors(hidden, f, 1 << plain)
            if best is None or error < best[0]:
                best = (error, f, plain, word)
        if best is not None and best[0] <= allowed / 4:
            break
    if best is None:
        return None
    _, f, plain, word = best
    plan = complete_plan(
        scheme, features, classes, hidden, norm, security, degree, primes, 1 << plain, f,
        width, tile_classes, inputs, word,
    )  # fmt: skip
    try:
        check_sound(plan)
    except ParameterError:
        return None
    return plan


def _nearest(found: tuple[Candidate, ...], wish: float | None) -> str:
    plans = [c.plan for c in found if c.plan is not None]
    small = [plan for plan in plans if plan.head_memory_bytes <= MEMORY_LIMIT_BYTES]
    if wish is not None and small:
        near = min(plan.logit_error for plan in small)
        step = 10.0 ** (math.floor(math.log10(near)) - 1)
        return f"logit_error {wish:g} is not possible here (nearest: {math.ceil(near / step) * step:.1e})"
    reasons = "; ".join(dict.fromkeys(f"{c.what}: {c.reason}" for c in found[:3]))
    return f"no plan meets these wishes ({reasons}); fewer features, classes or hidden units are the nearest possible"
