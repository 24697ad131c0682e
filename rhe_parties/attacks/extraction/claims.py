"""From extracted heads to a claim: training images by span inversion, told how far the weights can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, Oracle, PriorKnowledge
from rhe_parties.attacks.extraction.hard import Extracted
from rhe_parties.attacks.span_inversion import SpanInversion
from rhe_parties.attacks.white_box import Heads, random_heads
from rhe_parties.errors import NumericError

__all__ = ["claim_from_heads", "extracted_heads", "granted", "granted_some", "mean_error", "trained_shadows"]

_NULL_HEADS = 1024


def granted(oracle: Oracle, head_id: str, wanted: int) -> int:
    """Answers that may be had for a head: what is wanted, or what its budget leaves."""
    return wanted if oracle.budget == 0 else max(0, min(wanted, oracle.budget - oracle.used(head_id)))


def granted_some(oracle: Oracle, head_id: str, wanted: int) -> int:
    """The same for who cannot go on without any.

    Raises:
        NumericError: nothing is left.
    """
    limit = granted(oracle, head_id, wanted)
    if limit == 0:
        raise NumericError(f"head {head_id}: the key holder's budget of {oracle.budget} was used up before the start")
    return limit


def extracted_heads(head_ids: tuple[str, ...], found: Sequence[Extracted]) -> Heads:
    """Extracted heads in the victims' order, with how far their weights can be trusted."""
    weight, bias = np.stack([head.weight for head in found]), np.stack([head.bias for head in found])
    return Heads(head_ids, weight, bias, mean_error([head.error_variance for head in found]))


def trained_shadows(prior: PriorKnowledge, context: AttackContext, count: int) -> Heads:
    """Heads of the victims' recipe on auxiliary images, made once for all worlds."""
    key = f"extraction shadows {count}"
    if key not in context.memory:
        context.memory[key] = SpanInversion().shadow_heads(prior, context, count)
    heads: Heads = context.memory[key]
    return heads


def claim_from_heads(
    heads: Heads,
    shadows: Heads,
    reconstruct: bool,
    prior: PriorKnowledge,
    context: AttackContext,
    notes: dict[str, str],
) -> Claim:
    """The claim of an extraction, with images if wanted, and with random heads in the victims' place as its null."""
    if not reconstruct:
        return Claim(head_ids=heads.head_ids, weights=heads.weight, biases=heads.bias, notes=notes)
    inner = replace(context, progress=_last_part(context.progress))
    invert = SpanInversion()
    claim = invert.attack_heads(heads, prior, inner)
    few = replace(
        shadows,
        head_ids=shadows.head_ids[:_NULL_HEADS],
        weight=shadows.weight[:_NULL_HEADS],
        bias=shadows.bias[:_NULL_HEADS],
    )
    nothing = replace(random_heads(few, heads.head_ids, context.seed), error_variance=heads.error_variance)
    context.progress(0.9, "null control")
    quiet = replace(context, progress=lambda _share, _text: None)
    return replace(claim, notes=claim.notes | notes, null=invert.attack_heads(nothing, prior, quiet))


def mean_error(variances: list[float]) -> float:
    """One error variance for heads that were extracted alike."""
    return float(np.mean(variances))


def _last_part(progress: Callable[[float, str], None]) -> Callable[[float, str], None]:
    return lambda share, text: progress(0.6 + 0.3 * share, text)
