"""Membership: was this candidate image among the head's training images?

Scores of all heads share one threshold (Carlini et al. 2022, arXiv 2112.03570): an adversary who has to tune it per
head would need the truth to do so.
"""

from __future__ import annotations

import math

import numpy as np

from rhe_parties.errors import NumericError
from rhe_parties.metrics.intervals import LEVEL, clopper_pearson, cluster_draws, exact_ends
from rhe_parties.metrics.separation import Separation, advantage, auc, rate_at_fpr
from rhe_parties.metrics.truth import GroundTruth, Measured, check_shape
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["MEMBERSHIP_RATES", "epsilon_lower_bound", "measure_membership", "membership_separation"]

MEMBERSHIP_RATES = (0.1, 0.01, 0.001)


def membership_separation(truth: GroundTruth, scores: FloatArray) -> Separation:
    """Members against non-members by score [V, M], with the sign changed: smaller is rather a member.

    Raises:
        NumericError: scores of another shape or not finite, or a truth with members or non-members only.
    """
    if truth.members is None:
        raise NumericError("the claim holds membership scores, but this task asked about no candidates")
    check_shape("scores", scores, truth.members.shape)
    members = truth.members.astype(bool)
    head = np.broadcast_to(np.arange(len(members))[:, None], members.shape)
    values = -scores.astype(np.float64)
    return Separation(values[members], head[members], values[~members], head[~members], len(members))


def measure_membership(truth: GroundTruth, scores: FloatArray, generator: np.random.Generator) -> list[Measured]:
    """AUC, conservative true-positive rates (where the negatives resolve them), advantage, and the bound on ε."""
    data = membership_separation(truth, scores)
    found = [auc("auc", data, generator)]
    for fpr in MEMBERSHIP_RATES:
        rate = rate_at_fpr(f"tpr_at_fpr_{fpr * 100:g}pct", [data], fpr, generator)
        if rate is not None:
            found.append(rate)
    found.append(advantage("advantage", data, generator))
    found.append(epsilon_lower_bound(data, truth.delta, generator))
    return found


def epsilon_lower_bound(data: Separation, delta: float, generator: np.random.Generator) -> Measured:
    """The largest ε that the attack rules out with 95 % confidence, at the given δ (0 where it rules out none).

    Whatever is (ε, δ)-private keeps TPR ≤ e^ε FPR + δ and TNR ≤ e^ε FNR + δ for every test (Kairouz et al. 2015). The
    test (side and threshold) is chosen on the heads of even index; on the others its rates get a lower and an upper
    end at 97.5 % each, the wider of Clopper–Pearson and a bootstrap over heads (Jagielski et al. 2020; Nasr et al.
    2021). Candidates are exchanged, not added, in the experiment, so the bound is on ε between training sets that
    differ in one *exchanged* image; for added or removed images at least half of it holds.

    `value` and `low` are the bound, `high` the plug-in estimate at the same test (counts moved by ½).
    """
    chosen = np.arange(data.heads) % 2 == 0
    counted = ~chosen
    side, threshold = _best_test(data, chosen, delta)
    bounds, plug_in = [0.0, 1.0], 0.0
    n = int(counted[data.positive_heads].sum() + counted[data.negative_heads].sum())
    if math.isfinite(threshold):
        hit, false = (
            _rate_ends(heads, _declared(values, threshold, side), counted, generator)
            for heads, values in _sides(data, side)
        )
        bounds = [hit[0], false[1]]
        plug_in = max(0.0, math.log(max(hit[2] - delta, 1e-12) / false[2]))
    value = max(0.0, math.log((bounds[0] - delta) / bounds[1])) if bounds[0] > delta else 0.0
    return Measured("epsilon_lower_bound", value, value, max(value, plug_in), n, 0.0, data.heads)


def _sides(data: Separation, side: int) -> list[tuple[AnyArray, AnyArray]]:
    """(heads, values) of the group that the test is to declare and of the other; side 1 declares members."""
    both = [(data.positive_heads, data.positives), (data.negative_heads, data.negatives)]
    return both if side == 1 else both[::-1]


def _declared(values: AnyArray, threshold: float, side: int) -> AnyArray:
    declared: AnyArray = values <= threshold if side == 1 else values >= threshold
    return declared


def _best_test(data: Separation, heads: AnyArray, delta: float) -> tuple[int, float]:
    """The side (1: declare members, -1: non-members) and threshold with the highest bound on the chosen heads."""
    best = (1, -math.inf)
    highest = 0.0
    for side in (1, -1):
        kept = [np.sort(values[heads[owner]] * side) for owner, values in _sides(data, side)]
        if not (kept[0].size and kept[1].size):
            continue
        places = np.unique(np.quantile(kept[0], np.linspace(0.002, 1, 400), method="inverted_cdf"))
        hits, false = (np.searchsorted(values, places, side="right") for values in kept)
        low, high = exact_ends(hits, kept[0].size)[0], exact_ends(false, kept[1].size)[1]
        bounds = np.log(np.maximum(low - delta, 1e-12) / high)
        if bounds.max() > highest:
            highest = float(bounds.max())
            best = side, float(places[int(np.argmax(bounds))]) * side
    return best


def _rate_ends(
    owner: AnyArray, declared: AnyArray, heads: AnyArray, generator: np.random.Generator
) -> tuple[float, float, float]:
    """(lower end, upper end, estimate) of the share that is declared, among the chosen heads."""
    size = len(heads)
    kept = heads[owner]
    found = np.bincount(owner[kept], declared[kept], minlength=size)[heads]
    count = np.bincount(owner[kept], minlength=size)[heads]
    hits, trials = round(float(found.sum())), int(count.sum())
    if trials == 0:
        return 0.0, 1.0, 0.5
    draws = cluster_draws(len(count), generator)
    totals = draws @ count
    rates = (draws @ found)[totals > 0] / totals[totals > 0]
    tail = (1 - LEVEL) / 2
    low, high = clopper_pearson(hits, trials)
    return (
        min(low, float(np.quantile(rates, tail))),
        max(high, float(np.quantile(rates, 1 - tail))),
        (hits + 0.5) / (trials + 1),
    )
