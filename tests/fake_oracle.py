"""A key holder in miniature: answers images with a known head, counts, and enforces a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rhe_parties.attacks.base import Answers
from rhe_parties.errors import BudgetError
from rhe_parties.types import AnyArray, FloatArray, UInt8Array


@dataclass
class FakeOracle:
    """Decides with `logits(features)` of each head; `release` as the key holder's, rounded to `digits`."""

    extract: Callable[[UInt8Array], FloatArray]
    heads: dict[str, Callable[[FloatArray], AnyArray]]
    budget: int = 0
    release: str = "classes"
    digits: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    calls: int = 0

    def ask(self, head_id: str, images: UInt8Array) -> Answers:
        """See `Oracle.ask`."""
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert len(images) > 0
        if self.budget and self.used(head_id) + len(images) > self.budget:
            raise BudgetError(f"the budget of {self.budget} images is used up")
        self.counts[head_id] = self.used(head_id) + len(images)
        self.calls += 1
        logits = self.heads[head_id](self.extract(images))
        classes = logits.argmax(axis=1).astype(np.int64)
        if self.release == "classes":
            return Answers(classes, np.empty(0, np.float32))
        released = logits if self.digits is None else np.round(logits, self.digits)
        return Answers(classes, released.astype(np.float32))

    def used(self, head_id: str) -> int:
        """See `Oracle.used`."""
        return self.counts.get(head_id, 0)
