"""Classified images from released scores: the model inversion network.

Source: Yang et al. 2019 (arXiv 1902.08552); semantic loss and adversarial augmentation: arXiv 2306.13965.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.inversion_network.inputs import ConfidenceInputs, HeadInputs, NetworkInputs
from rhe_parties.attacks.inversion_network.pairs import AnsweredPairs, Nudge, ShadowPairs
from rhe_parties.attacks.inversion_network.training import Inverter, TrainingSettings, train_inverter
from rhe_parties.attacks.membership.oracle import share_of_budget
from rhe_parties.attacks.scores import ReleasedScores
from rhe_parties.attacks.shadows.factory import ShadowFactory
from rhe_parties.attacks.soft_label import SoftLabel
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.messages.payloads import Decision
from rhe_parties.rng import numpy_stream, stream_seed, torch_stream
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import FloatArray, IntArray

__all__ = ["AnsweredInversionStrategy", "InversionNetworkStrategy", "released_scores"]

_HELD_OUT_SHARE = 8  # one auxiliary image of every class in so many is kept from the training
_HELD_OUT_HEADS = 64
_FIT_PAIRS = 4096


class _Made(NamedTuple):
    """What depends on prior knowledge and the release alone."""

    inverter: Inverter
    pairs: ShadowPairs


class InversionNetworkStrategy(Strategy):
    """Paints the images that victims' heads decided on, from the scores that were released about them.

    Uses: released scores that the adversary sees, of inputs that it does not see; the public backbone and recipe,
    auxiliary images. One network is trained for all victims, on scores that shadow heads give to auxiliary images.
    Where the adversary may also ask the key holder for scores of its own images it solves each head from them first
    (as `soft-label` does), and the network is fed with what the scores then say about the features.

    Expected with logits: clearly better than the mean image of the class, much better with the head known; with
    classes only: blocked, as nothing but that mean image is left. There is no variant on ciphertexts: who holds them,
    the host, holds the inputs in the clear.
    """

    name = "inversion-network"
    goal = "inversion"
    summary = "classified images from released scores, by a network trained on shadow heads"
    source = "Yang et al. 2019, arXiv 1902.08552; semantic variant arXiv 2306.13965"
    needs = frozenset({Observation.RELEASED_SCORES})

    @dataclass(frozen=True)
    class Options:
        """Effort and variant.

        Attributes:
            steps, batch, width, learning_rate: of the network's training, see `TrainingSettings`.
            shadow_heads: heads trained on auxiliary images.
            truncation: largest confidences that the network sees; 0: all. Not used where the head is known.
            semantic: add the semantic loss and adversarially moved images.
            semantic_weight: of the semantic loss, where it is on.
            adversarial_share: of the training images, where it is on.
            member_share: share of training pairs whose image is one of the shadow head's own training images; raise it
                where the classified inputs are believed to be training images.
            know_head: solve heads from scores of own images, where the key holder answers those.
            head_queries: images per head for that; 0: as many as `soft-label` takes.
        """

        steps: int = 1500
        batch: int = 128
        width: int = 24
        learning_rate: float = 5e-3
        shadow_heads: int = 512
        truncation: int = 0
        semantic: bool = False
        semantic_weight: float = 0.02
        adversarial_share: float = 0.25
        member_share: float = 0.0
        know_head: bool = True
        head_queries: int = 0

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`."""
        ids, logits = released_scores(view, context.victims, prior.classes)
        released = ReleasedScores.under(context.defences)
        logits = released.undone(logits)
        heads = self._solve_heads(view, prior, context) if self._may_solve(context) else None
        made = self._made(released, heads is not None, prior, context)
        context.progress(0.95, "painting inputs")
        weight, bias = (None, None) if heads is None else (heads.weights, heads.biases)
        inputs = made.inverter.decode(logits, weight, bias)
        notes = {
            "rounding of the released scores": f"to multiples of {released.grid:g}" if released.grid else "none",
            "heads": "unknown" if heads is None else "solved from scores of own images",
            "error on auxiliary images": made.inverter.held_out.describe(),
        }
        return Claim(ids, inputs=inputs, notes=notes, null=self._null(ids, logits.shape[1], made, context))

    def _made(self, released: ReleasedScores, aware: bool, prior: PriorKnowledge, context: AttackContext) -> _Made:
        return self._network(released.grid, aware, prior, context)

    def _may_solve(self, context: AttackContext) -> bool:
        return bool(self.options.know_head) and context.oracle is not None and context.oracle.release != "classes"

    def _solve_heads(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """Weights and biases of the victims, from scores of images of the adversary's own."""
        solver = SoftLabel(SoftLabel.Options(queries=self.options.head_queries, reconstruct=False))
        inner = replace(context, progress=lambda share, text: context.progress(0.3 * share, text))
        return solver.attack(view, prior, inner)

    def _network(self, grid: float, aware: bool, prior: PriorKnowledge, context: AttackContext) -> _Made:
        """Train the network, or take the one that was trained for another world of the same release."""
        key = f"inversion-network {self.options} {grid} {aware}"
        if key not in context.memory:
            context.progress(0.3, "shadow heads")
            o, seed = self.options, stream_seed(context.seed, "inversion-network")
            kept, held = _split(prior.auxiliary_labels, prior.classes, seed)
            nudge = Nudge(o.adversarial_share) if o.semantic else Nudge()
            pairs, test = self._pairs(kept, held, grid, nudge, prior, context, seed)
            inputs = self._inputs(pairs, kept, grid, aware, prior, seed)
            context.memory[key] = self._trained(
                pairs, test, inputs, context, seed, o.semantic_weight if o.semantic else 0.0
            )
        result: _Made = context.memory[key]
        return result

    def _trained(
        self,
        pairs: ShadowPairs,
        test: ShadowPairs,
        inputs: NetworkInputs,
        context: AttackContext,
        seed: int,
        semantic: float = 0.0,
    ) -> _Made:
        o = self.options
        settings = TrainingSettings(o.steps, o.batch, o.width, o.learning_rate, semantic)
        made = train_inverter(
            pairs, test, inputs, settings, seed,
            lambda done: context.progress(0.35 + 0.6 * done, "training the inversion network"),
        )  # fmt: skip
        return _Made(made, pairs)

    def _pairs(
        self,
        kept: IntArray,
        held: IntArray,
        grid: float,
        nudge: Nudge,
        prior: PriorKnowledge,
        context: AttackContext,
        seed: int,
    ) -> tuple[ShadowPairs, ShadowPairs]:
        """Training pairs, and held-out ones: other images, other heads. All heads are trained on the kept images."""
        features = prior.auxiliary_features
        factory = ShadowFactory(
            features[kept], prior.auxiliary_labels[kept], prior.classes, prior.images_per_class, prior.recipe, seed,
            purpose="inversion",
        )  # fmt: skip
        count = self.options.shadow_heads
        if count < 1:
            raise ParameterError(f"inversion-network: shadow_heads = {count} is not allowed: at least 1")
        bank = factory.take(count + _HELD_OUT_HEADS, context.pool)
        backbone, images = prior.backbone, prior.auxiliary_images
        train = ShadowPairs(
            backbone, images[kept], features[kept], bank.weight[:count], bank.bias[:count], bank.sets[:count],
            grid, self.options.member_share, nudge,
        )  # fmt: skip
        none = np.empty((_HELD_OUT_HEADS, 0), np.int64)
        rest = bank.weight[count:], bank.bias[count:]
        return train, ShadowPairs(backbone, images[held], features[held], *rest, none, grid)

    def _inputs(
        self, pairs: ShadowPairs, kept: IntArray, grid: float, aware: bool, prior: PriorKnowledge, seed: int
    ) -> NetworkInputs:
        if aware:
            believed = FeaturePrior.fit(prior.auxiliary_features[kept], prior.auxiliary_labels[kept], prior.classes)
            variance = grid**2 / 12
            return HeadInputs(believed, variance=variance, device=str(prior.backbone.device))
        sample = pairs.draw(_FIT_PAIRS, torch_stream(seed, "inversion-network-inputs"), nudged=False)
        return ConfidenceInputs.fit(sample.logits, self.options.truncation)

    def _null(self, ids: tuple[str, ...], count: int, made: _Made, context: AttackContext) -> Claim:
        """The same network on scores of other images: what shadow heads say about auxiliary ones, drawn at random."""
        drawn = made.pairs.draw(len(ids) * count, torch_stream(context.seed, "inversion-network-null"), nudged=False)
        weight, bias = (part[drawn.heads].cpu().numpy() for part in (made.pairs.weight, made.pairs.bias))
        images = made.inverter.decode(drawn.logits.cpu().numpy()[:, None], weight, bias)
        return Claim(ids, inputs=images.reshape(len(ids), count, *images.shape[2:]))


class AnsweredInversionStrategy(InversionNetworkStrategy):
    """The same network, trained on what the victims themselves answer about auxiliary images.

    The attack as it was published. Where answers are perturbed (`lpa`, `lfp`) it adapts, as what it trains on is
    perturbed in the same way; `inversion-network`, trained on clean scores of shadow heads, knows nothing of that.
    """

    name = "inversion-answers"
    summary = "classified images from released scores, by a network trained on the victims' own answers"
    source = "Yang et al. 2019, arXiv 1902.08552"
    needs = frozenset({Observation.RELEASED_SCORES, Observation.ORACLE, Observation.ORACLE_SCORES})

    @dataclass(frozen=True)
    class Options:
        """Effort; see `InversionNetworkStrategy.Options`.

        Attributes:
            steps, batch, width, learning_rate, truncation: of the network and its training.
            head_queries: auxiliary images that each head is asked about; 0: all, within the budget.
        """

        steps: int = 1500
        batch: int = 128
        width: int = 24
        learning_rate: float = 5e-3
        truncation: int = 0
        head_queries: int = 0

    def _may_solve(self, context: AttackContext) -> bool:
        del context
        return False

    def _made(self, released: ReleasedScores, aware: bool, prior: PriorKnowledge, context: AttackContext) -> _Made:
        del aware
        oracle, seed = context.require_oracle(), stream_seed(context.seed, "inversion-answers")
        asked = share_of_budget(oracle, context.victims, self.options.head_queries or len(prior.auxiliary_labels))
        rows = np.sort(numpy_stream(seed, "questions").permutation(len(prior.auxiliary_labels))[:asked])
        answers = []
        for number, head in enumerate(context.victims):
            context.progress(0.3 * number / len(context.victims), f"asking about head {number + 1}")
            answers.append(released.undone(oracle.ask(head, prior.auxiliary_images[rows]).logits))
        every = np.stack(answers)
        kept, held = _split(prior.auxiliary_labels[rows], prior.classes, seed)
        train, test = (
            AnsweredPairs(
                prior.backbone, prior.auxiliary_images[rows[part]], prior.auxiliary_features[rows[part]], every[:, part]
            )
            for part in (kept, held)
        )
        return self._trained(train, test, self._inputs(train, kept, 0.0, False, prior, seed), context, seed)


def released_scores(view: AdversaryView, victims: tuple[str, ...], classes: int) -> tuple[tuple[str, ...], FloatArray]:
    """Logits [V, B, K] of the victims' decisions, rows of a head in the order in which they came.

    Args:
        view: what the adversary saw.
        victims: ids of the heads; empty: those in the view, in the order of their first decision.
        classes: number of classes K.

    Raises:
        NumericError: a victim without decisions, decisions without scores or of other than K classes, or victims with
            different numbers of decisions.
    """
    found: dict[str, list[FloatArray]] = {}
    for decision in view.of_kind(Decision):
        if victims and decision.head_id not in victims:
            continue
        if decision.logits.size and decision.logits.shape[1] != classes:
            raise NumericError(
                f"released scores of head {decision.head_id!r} are of {decision.logits.shape[1]} classes, not {classes}"
            )
        if not decision.logits.size and len(decision.classes):
            raise NumericError(f"some decisions of head {decision.head_id!r} came without scores")
        found.setdefault(decision.head_id, []).append(decision.logits.reshape(-1, classes))
    ids = tuple(victims) or tuple(found)
    missing = [head for head in ids if not sum(len(part) for part in found.get(head, []))]
    if missing or not ids:
        raise NumericError(f"the view holds no released scores of head {(missing or ['?'])[0]!r}")
    rows = [np.concatenate(found[head]) for head in ids]
    counts = {len(part) for part in rows}
    if len(counts) > 1:
        raise NumericError(f"heads decided on different numbers of images ({min(counts)} to {max(counts)})")
    return ids, np.stack(rows).astype(np.float32)


def _split(labels: IntArray, classes: int, seed: int) -> tuple[IntArray, IntArray]:
    """Auxiliary images to train on and to hold out, class by class; sorted indices.

    Raises:
        DataError: a class with fewer than three auxiliary images, or a label out of range.
    """
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(f"auxiliary labels must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}")
    kept, held = [], []
    for label in range(classes):
        rows = numpy_stream(seed, "inversion-network-split", label).permutation(np.flatnonzero(labels == label))
        if len(rows) < 3:
            raise DataError(f"class {label} has {len(rows)} auxiliary images; the inversion network needs at least 3")
        cut = max(1, len(rows) // _HELD_OUT_SHARE)
        held.append(rows[:cut])
        kept.append(rows[cut:])
    return np.sort(np.concatenate(kept)).astype(np.int64), np.sort(np.concatenate(held)).astype(np.int64)
