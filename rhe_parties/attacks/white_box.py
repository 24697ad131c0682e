"""Attacks on a head's weights: as they are where a head is in the clear, through a regressor where it is encrypted.

A subclass writes `attack_heads` alone. Both of its variants come with a null control: the same attack on an input of
the same shape that holds nothing.

- as it is: random heads, Gaussian with mean and covariance of heads that the adversary trained itself (the random
  heads of arXiv 2505.14323, section on evaluation);
- on ciphertexts: shadow heads are encrypted in the same way under the same public key, a regressor learns to read
  them, and what it reads of the host's real bytes is attacked; the null is what it reads of random bytes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.span.ciphertext import fit_head_regressor
from rhe_parties.attacks.span.shadows import balanced_sets
from rhe_parties.errors import NumericError
from rhe_parties.he.inspect import numeric_view
from rhe_parties.he.scheme import HeadCiphertexts, make_encryptor
from rhe_parties.he.tag import encrypt_as_planned
from rhe_parties.model.binary_head import BinaryHead
from rhe_parties.model.head import LinearHead, train_heads
from rhe_parties.rng import numpy_stream, stream_seed
from rhe_parties.threads import limited_threads
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import AnyArray, FloatArray

__all__ = [
    "Heads",
    "ReadHeads",
    "WhiteBoxStrategy",
    "gaussian_like",
    "known_victims",
    "null_shadows",
    "random_heads",
    "read_ciphertexts",
]

_NULL_SHADOWS = 1024
_PROGRESS_OF_NULL = 0.85


@dataclass(frozen=True, eq=False)
class Heads:
    """V heads: weights float32 [V, K, D], biases float32 [V, K]; `error_variance` of a weight that was estimated."""

    head_ids: tuple[str, ...]
    weight: FloatArray
    bias: FloatArray
    error_variance: float = 0.0

    def flat(self) -> FloatArray:
        """[V, K·(D+1)]: weights, then biases."""
        return np.concatenate([self.weight.reshape(len(self.weight), -1), self.bias], axis=1)

    def of(self, flat: FloatArray, head_ids: tuple[str, ...], error_variance: float = 0.0) -> Heads:
        """Heads of this shape from flat rows [V, K·(D+1)]."""
        classes, width = self.weight.shape[1:]
        weight = flat[:, : classes * width].reshape(-1, classes, width)
        return Heads(head_ids, weight.astype(np.float32), flat[:, classes * width :].astype(np.float32), error_variance)


class WhiteBoxStrategy(Strategy):
    """A strategy that works on weights; see the module."""

    needs = frozenset({Observation.PLAIN_HEAD})
    ciphertext_needs = frozenset({Observation.ENCRYPTED_HEAD, Observation.PUBLIC_KEY})
    #: Shadow heads encrypted under the same key for the variant on ciphertexts; an option of this name comes first.
    ciphertext_shadows: ClassVar[int] = 512

    @abstractmethod
    def attack_heads(self, heads: Heads, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """The attack on known or estimated heads; a claim for each of them.

        Heads that were estimated without any skill come as equal rows, the mean head, with an error variance near
        that of heads as such: what is claimed of them must not depend on anything but prior knowledge.
        """

    def shadow_heads(self, prior: PriorKnowledge, context: AttackContext, count: int) -> Heads:
        """Heads that the adversary trains on auxiliary images as the owner does on private ones."""
        seed = stream_seed(context.seed, "white-box-shadows")
        sets = balanced_sets(*prior.balance, count, seed)
        seeds = [stream_seed(seed, "shadow", index) for index in range(count)]
        labels = prior.auxiliary_labels[sets]
        with limited_threads(1):
            weight, bias = train_heads(prior.auxiliary_features[sets], labels, prior.classes, prior.recipe, seeds)
        return Heads(tuple(f"shadow-{index}" for index in range(count)), weight, bias)

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`."""
        seen = view.plain_heads()
        ids = known_victims(context.victims, seen)
        weight = np.stack([seen[name].weight for name in ids])
        bias = np.stack([seen[name].bias for name in ids])
        claim = self.attack_heads(Heads(ids, weight, bias), prior, context)
        shadows = self.shadow_heads(prior, context, null_shadows(len(ids)))
        return self._with_null(claim, random_heads(shadows, ids, context.seed), prior, context)

    def attack_ciphertexts(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """Read heads from the numbers in their ciphertexts, as well as a trained regressor can, and attack those."""
        context.progress(0.0, "shadow heads under the same public key")
        count = getattr(self.options, "ciphertext_shadows", self.ciphertext_shadows)
        shadows = self.shadow_heads(prior, context, count)
        heads = [LinearHead(*pair) for pair in zip(shadows.weight, shadows.bias, strict=True)]
        read = read_ciphertexts(view, heads, shadows.flat(), context)
        claim = self.attack_heads(shadows.of(read.flat, read.head_ids, read.error_variance), prior, context)
        nothing = shadows.of(read.nothing, read.head_ids, read.error_variance)
        claim = self._with_null(claim, nothing, prior, context)
        return replace(claim, notes=claim.notes | read.notes)

    def _with_null(self, claim: Claim, heads: Heads, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """The claim with what the same attack makes of heads that know nothing of the victims."""
        quiet = replace(context, progress=lambda _f, _t: context.progress(_PROGRESS_OF_NULL, "null control"))
        return replace(claim, null=self.attack_heads(heads, prior, quiet))


def random_heads(shadows: Heads, head_ids: tuple[str, ...], seed: int) -> Heads:
    """Gaussian heads with the mean and the sample covariance of the shadows, one for each id.

    Mean + Σ_i g_i (w_i - mean) / √(n - 1) with g standard normal has just this covariance, which itself, D·K wide,
    never needs to be formed.
    """
    return shadows.of(gaussian_like(shadows.flat(), len(head_ids), seed), head_ids)


def gaussian_like(flat: FloatArray, count: int, seed: int) -> FloatArray:
    """`count` random rows with mean and sample covariance of the rows of flat weights [n, P]; see `random_heads`."""
    exact = flat.astype(np.float64)
    mean = exact.mean(axis=0)
    draws = numpy_stream(seed, "random-heads").standard_normal((count, len(flat)))
    mixed: AnyArray = mean + draws @ (exact - mean) / np.sqrt(max(len(flat) - 1, 1))
    return mixed.astype(np.float32)


class ReadHeads(NamedTuple):
    """What a regressor reads of the victims' ciphertexts [V, P], and of random bytes `nothing` [V, P]."""

    head_ids: tuple[str, ...]
    flat: FloatArray
    nothing: FloatArray
    error_variance: float
    notes: dict[str, str]


def read_ciphertexts(
    view: AdversaryView, shadows: Sequence[LinearHead | BinaryHead], flat: FloatArray, context: AttackContext
) -> ReadHeads:
    """Learn to read heads from ciphertexts' numbers, on shadows that are encrypted under the same key, and read.

    Args:
        view: holds encrypted heads and public key material.
        shadows: heads like the victims'.
        flat: what is to be read of each of them [n, P], its weights in some order.
    """
    material, seen = view.public_material(), view.encrypted_heads()
    ids = known_victims(context.victims, seen)
    if material is None:  # the seat has checked `ciphertext_needs`
        raise LookupError("no public key in the view")
    seed = stream_seed(context.seed, "white-box-ciphertext")
    encryptor = make_encryptor(material)
    numbers = []
    for index, head in enumerate(shadows):
        context.progress(0.3 * index / len(shadows), "encrypting shadow heads")
        numbers.append(numeric_view(material, encrypt_as_planned(encryptor, material.plan, *head.encryptable)))
    context.progress(0.3, "learning to read ciphertexts")
    regressor = fit_head_regressor(np.stack(numbers), flat, seed)
    held = [HeadCiphertexts(seen[name].ciphertexts, seen[name].key_fingerprint) for name in ids]
    real = np.stack([numeric_view(material, item) for item in held])
    notes = {
        "shadow heads encrypted under the same key": str(len(shadows)),
        "share of held-out heads' variance explained": f"{max(regressor.skill, 0.0):.3f}",
    }
    noise = regressor.predict(_random_numbers(real, seed))
    return ReadHeads(ids, regressor.predict(real), noise, regressor.error_variance, notes)


def _random_numbers(numbers: AnyArray, seed: int) -> AnyArray:
    """Uniform over the range of each column: ciphertexts of nothing."""
    low, high = numbers.min(axis=0).astype(np.float64), numbers.max(axis=0).astype(np.float64)
    noise: AnyArray = low + (high - low) * numpy_stream(seed, "random-bytes").random(numbers.shape)
    return noise


def null_shadows(victims: int) -> int:
    """How many shadow heads give the random heads of a null control their mean and covariance."""
    return min(_NULL_SHADOWS, max(64, victims))


def known_victims(victims: Sequence[str], seen: Mapping[str, object]) -> tuple[str, ...]:
    """The victims in their order; all of them must be in the view.

    Raises:
        NumericError: a victim's head was not seen.
    """
    wanted = tuple(victims) or tuple(seen)
    missing = [name for name in wanted if name not in seen]
    if missing:
        raise NumericError(f"the view lacks the head of {missing[0]!r} ({len(missing)} of {len(wanted)} are missing)")
    return wanted
