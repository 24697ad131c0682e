"""Shadow heads that were, and that were not, trained on a candidate; what each of them answers on its probes.

One set of S images per class serves up to N candidates at once, at most S of each class: in every round each
candidate of a piece is placed in exactly one set, and auxiliary images fill the rest. So n heads per candidate cost
about n/N heads per candidate, a tenth at N = 10 (the sharing of arXiv 2112.03570, section 4, for few-shot sets).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from rhe_parties.attacks.base import AttackContext, PriorKnowledge
from rhe_parties.attacks.membership.statistics import margins
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.model.dual import train_many
from rhe_parties.model.head import Recipe
from rhe_parties.rng import numpy_stream, stream_seed
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["Answer", "ShadowAnswers", "Workshop", "shadow_answers"]

_PIECE = 320  # candidates that share sets
_FILL = 500  # auxiliary images per class that fill the sets
_BLOCK = 256  # heads trained at once
_WORK_BYTES = 8 << 20  # of probes gathered at once


class ShadowAnswers(NamedTuple):
    """What shadow heads answer on the P probes of C candidates: inside [C, P, n], outside [C, P, m]."""

    inside: AnyArray
    outside: AnyArray


@dataclass(frozen=True)
class Answer:
    """What is kept of logits [..., K] for label y.

    Attributes:
        kind: `margin`: log p_y / (1 - p_y), float32; `label`: whether y wins, bool.
        grid: logits are rounded to multiples of it before; 0: they are not.
    """

    kind: str = "margin"
    grid: float = 0.0

    def of(self, logits: FloatArray, labels: IntArray) -> AnyArray:
        """Logits [..., K] and labels that broadcast to [...]; float32 or bool [...]."""
        if self.grid:
            logits = np.round(logits / self.grid) * logits.dtype.type(self.grid)
        if self.kind == "label":
            wins: AnyArray = logits.argmax(axis=-1) == labels
            return wins
        return margins(logits, labels)


@dataclass(frozen=True, eq=False)
class Workshop:
    """Everything that the pieces share.

    Attributes:
        features: auxiliary features [n, D] that fill the sets.
        labels: their classes [n].
        classes: K.
        per_class: S.
        recipe: the victims' training.
        inside, outside: heads per candidate with it, and heads per piece without any.
        answer: what is kept of their logits.
        seed: root seed.
    """

    features: FloatArray
    labels: IntArray
    classes: int
    per_class: int
    recipe: Recipe
    inside: int
    outside: int
    answer: Answer
    seed: int

    def __post_init__(self) -> None:
        if self.inside < 0 or self.outside < 2:
            raise ParameterError(
                f"membership shadows: {self.inside} heads with a candidate (at least 0) and "
                f"{self.outside} without (at least 2) are not allowed"
            )

    @classmethod
    def build(cls, prior: PriorKnowledge, inside: int, outside: int, answer: Answer, seed: int) -> Workshop:
        """Take up to 500 auxiliary images of each class.

        Raises:
            DataError: a class with fewer than S auxiliary images.
            ParameterError: numbers of heads that are not allowed.
        """
        chosen = []
        for label in range(prior.classes):
            pool = np.flatnonzero(prior.auxiliary_labels == label)
            if len(pool) < prior.images_per_class:
                raise DataError(
                    f"membership: class {label} has {len(pool)} auxiliary images, "
                    f"{prior.images_per_class} are needed for a shadow head"
                )
            chosen.append(numpy_stream(seed, "membership-fill", label).permutation(pool)[:_FILL])
        rows = np.concatenate(chosen)
        return cls(
            prior.auxiliary_features[rows], prior.auxiliary_labels[rows], prior.classes, prior.images_per_class,
            prior.recipe, inside, outside, answer, seed,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Piece:
    index: int
    features: FloatArray  # [C, D]
    labels: IntArray  # [C]
    probes: FloatArray  # [C, P, D]


def shadow_answers(
    workshop: Workshop, features: FloatArray, labels: IntArray, probes: FloatArray, context: AttackContext
) -> ShadowAnswers:
    """Train shadow heads for all candidates, and ask each about its probes.

    Args:
        workshop: what they are trained on, and how many.
        features: of the candidates [C, D].
        labels: their classes [C].
        probes: features of what is asked about each candidate [C, P, D]; the label of each is the candidate's.
        context: its pool does the work, cut alike for any number of workers.
    """
    # Neighbours belong to one victim: spread over all pieces they are rarely in one set, as in any other set.
    order = numpy_stream(workshop.seed, "membership-order").permutation(len(labels))
    count = max(1, -(-len(labels) // _PIECE))
    parts = [order[start::count] for start in range(count)]
    pieces = [_Piece(i, features[rows], labels[rows], probes[rows]) for i, rows in enumerate(parts)]
    found = []
    for done, answers in enumerate(context.pool.stream(functools.partial(_work, workshop), pieces)):
        found.append(answers)
        context.progress((done + 1) / len(pieces), "shadow heads with and without each candidate")
    back = np.argsort(np.concatenate(parts))
    inside, outside = (np.concatenate([answers[side] for answers in found])[back] for side in (0, 1))
    return ShadowAnswers(inside, outside)


def _work(workshop: Workshop, piece: _Piece) -> ShadowAnswers:
    table = np.concatenate([workshop.features, piece.features])
    classes = np.concatenate([workshop.labels, piece.labels])
    count, probes = piece.probes.shape[:2]
    dtype = np.bool_ if workshop.answer.kind == "label" else np.float32
    outsiders = _fill(workshop, numpy_stream(workshop.seed, "membership-outside", piece.index), workshop.outside)
    outside: AnyArray = np.empty((count, probes, workshop.outside), dtype)
    flat = piece.probes.reshape(count * probes, -1)
    for start, weight, bias in _train(workshop, piece.index, 0, table, classes, outsiders):
        logits = (flat @ weight.reshape(-1, weight.shape[-1]).T).reshape(count, probes, *bias.shape) + bias
        outside[:, :, start : start + len(weight)] = workshop.answer.of(logits, piece.labels[:, None, None])
    sets, guests = _rounds(workshop, piece)
    inside: AnyArray = np.empty((workshop.inside, count, probes), dtype)
    turns = np.repeat(np.arange(workshop.inside), len(sets) // max(workshop.inside, 1))
    for start, weight, bias in _train(workshop, piece.index, 1, table, classes, sets):
        here = guests[start : start + len(weight)]
        head, _ = places = np.nonzero(here >= 0)
        who = here[places]
        answers = workshop.answer.of(_own_logits(piece.probes, here, weight, bias)[places], piece.labels[who, None])
        inside[turns[start + head], who] = answers
    return ShadowAnswers(np.moveaxis(inside, 0, 2), outside)


def _own_logits(probes: FloatArray, guests: IntArray, weight: FloatArray, bias: FloatArray) -> FloatArray:
    """Logits [B, N, P, K] that B heads give the probes of their own guests (of anyone where there is none)."""
    heads, places = guests.shape
    found = np.empty((heads, places, probes.shape[1], bias.shape[1]), np.float32)
    step = max(1, _WORK_BYTES // (4 * places * probes[0].size))
    for start in range(0, heads, step):
        part = slice(start, start + step)
        asked = probes[guests[part]].reshape(-1, places * probes.shape[1], probes.shape[2])
        logits = torch.bmm(torch.from_numpy(asked), torch.from_numpy(weight[part]).mT).numpy()
        found[part] = logits.reshape(-1, *found.shape[1:]) + bias[part, None, None]
    return found


def _train(
    workshop: Workshop, piece: int, side: int, table: FloatArray, classes: IntArray, sets: IntArray
) -> Iterator[tuple[int, FloatArray, FloatArray]]:
    """Heads of sets [B, N] in blocks: (first index, weights, biases)."""
    for start in range(0, len(sets), _BLOCK):
        seed = stream_seed(workshop.seed, "membership-head", piece, side, start)
        block = sets[start : start + _BLOCK]
        yield start, *train_many(table, classes, block, workshop.classes, workshop.recipe, seed)


def _fill(workshop: Workshop, rng: np.random.Generator, heads: int) -> IntArray:
    """Random sets [heads, K·S] of auxiliary rows, ordered by class, without repetition inside a set."""
    columns = []
    for label in range(workshop.classes):
        pool = np.flatnonzero(workshop.labels == label)
        ranks = rng.random((heads, len(pool))).argpartition(workshop.per_class - 1, axis=1)
        columns.append(pool[ranks[:, : workshop.per_class]])
    return np.concatenate(columns, axis=1).astype(np.int64)


def _rounds(workshop: Workshop, piece: _Piece) -> tuple[IntArray, IntArray]:
    """Sets for `inside` rounds, and which candidate of the piece (or -1) each place holds: [B, K·S] both."""
    slots = workshop.per_class
    most = int(np.bincount(piece.labels, minlength=workshop.classes).max())
    each = -(-most // slots)
    rng = numpy_stream(workshop.seed, "membership-rounds", piece.index)
    sets = _fill(workshop, rng, workshop.inside * each)
    guests = np.full_like(sets, -1)
    first = len(workshop.labels)
    for turn in range(workshop.inside):
        for label in range(workshop.classes):
            mine = np.flatnonzero(piece.labels == label)
            place = rng.permutation(each * slots)[: len(mine)]
            row, column = turn * each + place // slots, label * slots + place % slots
            sets[row, column] = first + mine
            guests[row, column] = mine
    return sets, guests
