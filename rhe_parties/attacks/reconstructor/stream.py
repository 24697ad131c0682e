"""From blocks of shadow heads of any shape to the flat weights that a reconstructor is trained on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from rhe_parties.attacks.reconstructor.standardise import flatten_heads
from rhe_parties.attacks.reconstructor.training import FlatShadows
from rhe_parties.attacks.shadows.factory import ShadowBlock
from rhe_parties.attacks.shadows.stream import BlockSource
from rhe_parties.attacks.shadows.two_layer_factory import FlatBlock
from rhe_parties.types import FloatArray

__all__ = ["shadow_stream"]


def shadow_stream(
    source: BlockSource[ShadowBlock] | BlockSource[FlatBlock],
    arrange: Callable[[FloatArray], FloatArray] | None = None,
) -> Iterator[FlatShadows]:
    """Flat shadow heads as long as the source has any, made one block at a time in this process.

    Workers would not help: a network on a CPU takes tens of times longer to learn from a head than making it takes.

    Args:
        source: linear or two-layer heads.
        arrange: from flat weights [B, P] to the form that the network shall see, such as
            `rhe_parties.attacks.reconstructor.neurons.sort_hidden_units`; victims need the same. None: as they are,
            which is the paper's way.
    """
    known = itertools.count() if source.limit is None else range(-(-source.limit // source.heads_per_block))
    for index in known:
        block = source.block(index)
        flat = block.parameters if isinstance(block, FlatBlock) else flatten_heads(block.weight, block.bias)
        yield FlatShadows(flat if arrange is None else arrange(flat), block.sets)
