"""Weights by comparison (methods: A2): the host submits multiples of one encrypted weight in place of logits.

With thresholds t_1 < … < t_(L-1) the class m gets m·w - Σ_(i ≤ m) t_i, so the class that wins is the number of
thresholds below w: log2 L bits in one decision. A class can only be told a multiple of its own where its logits lie
in a polynomial of their own: of the c classes that share one, the last is used and the others are put out of the race.
L is therefore the number of polynomials in a reply.

In each polynomial, input i's place of the last class reads coefficient x of a head polynomial if that is multiplied by
X^(place - x). A head polynomial holds weights in its first c·w coefficients only and inputs lie c·w apart, so the
products for different inputs never meet in such a place: a request of b inputs compares b weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.malicious.places import Decide
from rhe_parties.errors import ProtocolError
from rhe_parties.he.malleable import Forge, Residues
from rhe_parties.he.scheme import HeadCiphertexts
from rhe_parties.types import AnyArray, IntArray

__all__ = ["Compared", "compare_weights", "levels"]

# Weights in one request; and how much coarser a bias may be found, as a share of what a whole feature vector moves.
_PER_REQUEST, _BIAS_SHARE = 2048, 1 / 8


@dataclass(frozen=True)
class Compared:
    """Integer weights [K, D] and biases [K] as found, half the width of a weight's last interval, decisions.

    `refused` is why the key holder would not go on; empty if it went on to the end.
    """

    weights: AnyArray
    biases: AnyArray
    error: float
    decisions: int
    refused: str


def levels(forge: Forge, classes: int) -> int:
    """Among how many thresholds one decision tells; below 2 none."""
    return -(-classes // forge.plan.tile_classes)


def compare_weights(forge: Forge, head: HeadCiphertexts, classes: int, bits: int, decide: Decide) -> Compared:
    """All weights of a head, to within 2^-bits of their range.

    Args:
        classes: that compete; where the plan has more, the others are left at zero.
        decide: where it raises a `ProtocolError`, what was found until then is returned.
    """
    plan = forge.plan
    search = _Search(forge, forge.head(head), classes)
    # No weight can be larger, or a feature vector within the bound could make a logit leave ±t/2.
    largest = plan.plain_modulus >> (plan.feature_bits + 1)
    count, columns = classes * plan.columns, plan.columns
    bias = np.arange(count) % columns == columns - 1
    reach = np.where(bias, plan.plain_modulus // (8 * search.levels), largest + 1)
    low, high = -reach.astype(np.int64), reach.astype(np.int64)
    decisions, refused = 0, ""
    while not refused:
        middle = (low + high + 1) / 2
        span = float(np.ptp(middle[~bias]))
        wanted = max(1.0, 2 * span * 2.0**-bits)
        targets = np.where(bias, max(1.0, wanted * 2.0**plan.feature_bits * _BIAS_SHARE), wanted)
        # The range is not known before the first round.
        open_items = np.flatnonzero(high - low > (targets if decisions else 1))
        if not open_items.size:
            break
        try:
            for start in range(0, len(open_items), _PER_REQUEST):
                items = open_items[start : start + _PER_REQUEST]
                low[items], high[items] = search.narrow(items, low[items], high[items], decide)
                decisions += len(items)
        except ProtocolError as error:
            refused = str(error)
    found = ((low + high + 1) / 2).reshape(classes, columns)
    return Compared(found[:, :-1], found[:, -1], float((high - low)[~bias].max()) / 2, decisions, refused)


class _Search:
    """Makes the replies of one head's search."""

    def __init__(self, forge: Forge, tiles: AnyArray, classes: int) -> None:
        self._forge, self._tiles, self._classes = forge, tiles, classes
        self._plan = forge.plan
        self.levels = levels(forge, classes)
        # Far below everything that competes, and far from the wrap at ±t/2.
        self._out = -(self._plan.plain_modulus // 4)

    def narrow(self, items: IntArray, low: IntArray, high: IntArray, decide: Decide) -> tuple[IntArray, IntArray]:
        """One decision for each weight (number class·columns + column) in (low, high]; the intervals afterwards."""
        steps = np.arange(1, self.levels, dtype=np.int64)[:, None]
        thresholds = low + -(-(high - low) * steps // self.levels)
        replies: list[bytes] = []
        for start in range(0, len(items), self._plan.batch):
            part = slice(start, start + self._plan.batch)
            replies += self._request(items[part], thresholds[:, part])
        winners = decide(tuple(replies), len(items))
        place = np.minimum(winners // self._plan.tile_classes, self.levels - 1)
        edges = np.concatenate([low[None], thresholds, high[None]])
        columns = np.arange(len(items))
        return edges[place, columns], edges[place + 1, columns]

    def _request(self, items: IntArray, thresholds: IntArray) -> list[bytes]:
        plan = self._plan
        constants = np.full((len(items), plan.classes), self._out, dtype=np.int64)
        below = np.concatenate([np.zeros((1, len(items)), np.int64), np.cumsum(thresholds, axis=0)])
        ciphers: list[Residues] = []
        made: dict[int, Residues] = {}
        for tile in range(plan.class_tiles):
            if tile >= self.levels:
                ciphers.append(self._forge.zero)
                continue
            active = min(plan.tile_classes, self._classes - tile * plan.tile_classes) - 1
            if tile and active not in made:
                made[active] = self._weights_at(items, active)
            ciphers.append(self._forge.times(made[active], tile) if tile else self._forge.zero)
            constants[:, tile * plan.tile_classes + active] = -below[tile]
        return self._forge.reply(ciphers, constants)

    def _weights_at(self, items: IntArray, active: int) -> Residues:
        """A ciphertext with the weight of item i where input i has the logit of class `active` of a tile."""
        plan, w = self._plan, self._plan.tile_width
        shifted = []
        for place, item in enumerate(items.tolist()):
            class_number, column = divmod(item, plan.columns)
            tile, inner = divmod(class_number, plan.tile_classes)
            feature_tile, offset = divmod(column, w)
            target = place * plan.layout.stride + active * w + w - 1
            source = inner * w + w - 1 - offset
            shifted.append(self._forge.turned(self._tiles[tile, feature_tile], target - source))
        return self._forge.total(shifted)
