"""Lets a strategy ask the key holder in the middle of its work, although its seat only answers messages.

The strategy runs in a thread of its own. Whenever it asks, the thread waits and the seat gives out the question as
envelopes; when the answers have come in, the thread goes on. Seat and thread never run at the same time.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import Answers, HostAnswers
from rhe_parties.errors import BudgetError, FailureCode, NumericError, ProtocolError
from rhe_parties.messages.checks import check_images
from rhe_parties.messages.payloads import (
    AskDecisions,
    ClaimReport,
    ClassifyResponse,
    ClientAdmitted,
    Decision,
    Failure,
    HostOrder,
)
from rhe_parties.types import UInt8Array

__all__ = ["Abandoned", "Heard", "Interview", "Questions", "SeatOracle"]

# Images in one request: small enough for any party's limits and for short handling times.
_PER_REQUEST = 1000


class Abandoned(Exception):
    """The run went on without the strategy; its thread ends."""


@dataclass(frozen=True)
class Questions:
    """Requests that the strategy wants answered before it goes on, and what the host is told about each."""

    requests: tuple[AskDecisions, ...]
    orders: tuple[HostOrder, ...] = ()


@dataclass(frozen=True)
class Heard:
    """Answers in the order of the requests, and of each the host's reply where a copy of it was ordered."""

    answers: list[Decision | Failure]
    copies: list[ClassifyResponse | None]


class Interview:
    """One strategy at work in its thread; `next` runs it until it asks something or has its report."""

    def __init__(self, run: Callable[[], ClaimReport], computing: Callable[[], AbstractContextManager[None]]) -> None:
        self._run = run
        self._computing = computing
        self._out: queue.SimpleQueue[Questions | ClaimReport | BaseException] = queue.SimpleQueue()
        self._in: queue.SimpleQueue[Heard | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="strategy", daemon=True)

    def start(self) -> None:
        """Set the strategy to work."""
        self._thread.start()

    def _work(self) -> None:
        try:
            with self._computing():
                self._out.put(self._run())
        except Abandoned:
            return
        except BaseException as error:
            self._out.put(error)

    def next(self) -> Questions | ClaimReport:
        """Wait until the strategy asks or is done.

        Raises:
            BaseException: whatever the strategy raised.
        """
        item = self._out.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def answer(self, heard: Heard) -> None:
        """Give the strategy what it asked for."""
        self._in.put(heard)

    def abandon(self) -> None:
        """Have the strategy end at its next question."""
        self._in.put(None)

    def ask(self, requests: tuple[AskDecisions, ...], orders: tuple[HostOrder, ...] = ()) -> Heard:
        """Called in the strategy's thread: wait for the answers."""
        self._out.put(Questions(requests, orders))
        heard = self._in.get()
        if heard is None:
            raise Abandoned
        return heard


class SeatOracle:
    """What a strategy sees: `rhe_parties.attacks.base.Oracle` and `HostOracle` by way of messages."""

    def __init__(self, grant: ClientAdmitted, prefix: str) -> None:
        self.budget = grant.budget
        self.release = grant.release
        self._prefix = prefix
        self._used: dict[str, int] = {}
        self._asked = 0
        #: Set once the strategy's thread runs.
        self.interview: Interview | None = None

    def ask(self, head_id: str, images: UInt8Array) -> Answers:
        """See `rhe_parties.attacks.base.Oracle.ask`."""
        check_images(images)
        self._check_budget(head_id, len(images))
        requests = tuple(
            AskDecisions(self._name(), head_id, images[start : start + _PER_REQUEST])
            for start in range(0, len(images), _PER_REQUEST)
        )
        heard = self._listening().ask(requests).answers
        decided = [self._decided(request, answer) for request, answer in zip(requests, heard, strict=True)]
        return Answers(
            np.concatenate([item.classes for item in decided]), np.concatenate([item.logits for item in decided])
        )

    def ask_through_host(self, head_id: str, images: UInt8Array, ciphertexts: tuple[bytes, ...] = ()) -> HostAnswers:
        """See `rhe_parties.attacks.base.HostOracle.ask_through_host`."""
        check_images(images)
        self._check_budget(head_id, len(images))
        request = AskDecisions(self._name(), head_id, images)
        heard = self._listening().ask((request,), (HostOrder(request.request_id, ciphertexts),))
        decision = self._decided(request, heard.answers[0])
        copy = heard.copies[0]
        return HostAnswers(
            decision.classes, decision.logits, decision.raw, ciphertexts if copy is None else copy.ciphertexts
        )

    def _check_budget(self, head_id: str, images: int) -> None:
        left = self.budget - self.used(head_id)
        if self.budget and images > left:
            raise BudgetError(f"{images} images asked, {left} of {self.budget} are left for head {head_id[:64]!r}")

    def _listening(self) -> Interview:
        if self.interview is None:
            raise RuntimeError("nobody listens to this oracle yet")
        return self.interview

    def _decided(self, request: AskDecisions, answer: Decision | Failure) -> Decision:
        if isinstance(answer, Failure):
            raise _error(answer)
        if len(answer.classes) != len(request.images):
            raise NumericError(f"{len(answer.classes)} decisions came for {len(request.images)} images")
        self._used[request.head_id] = answer.used
        return answer

    def used(self, head_id: str) -> int:
        """See `rhe_parties.attacks.base.Oracle.used`."""
        return self._used.get(head_id, 0)

    def _name(self) -> str:
        self._asked += 1
        return f"{self._prefix}-{self._asked:06d}"


def _error(failure: Failure) -> ProtocolError:
    if failure.code == FailureCode.BUDGET:
        return BudgetError(f"{failure.party}: {failure.text}")
    code = FailureCode.INTERNAL
    with contextlib.suppress(ValueError):
        code = FailureCode(failure.code)
    return ProtocolError(code, f"{failure.party}: {failure.text}")
