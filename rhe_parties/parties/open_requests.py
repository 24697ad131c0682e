"""The key holder's requests that wait for the host: each is answered once, by the reply that belongs to it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from rhe_parties.errors import FailureCode, MessageError, NumericError, ProtocolError, SchemeError
from rhe_parties.messages.fingerprints import response_digest
from rhe_parties.messages.payloads import ClassifyResponse, HeadNotice
from rhe_parties.parties.base import Asker
from rhe_parties.parties.recent import RecentIds, UsedIds

__all__ = ["MAX_OPEN", "OpenRequest", "OpenRequests"]

# Requests without an answer; beyond this the oldest are given up, so that a silent host costs no memory.
MAX_OPEN = 4096


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Who waits, for which head, how many images, and the number of the request to the host.

    `expected` is the class that a canary must get, for which nobody else waits; -1 for any other request.
    """

    asker: Asker
    head: HeadNotice
    batch: int
    sequence: int
    expected: int = -1


class OpenRequests:
    """Requests by id, oldest first, and the ids that were used before.

    Args:
        used: where the ids are remembered; None: the latest in memory.
    """

    def __init__(self, used: UsedIds | None = None) -> None:
        self._open: OrderedDict[str, OpenRequest] = OrderedDict()
        self._used: UsedIds = used if used is not None else RecentIds()

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def __iter__(self) -> Iterator[str]:
        """The ids of open requests."""
        return iter(self._open)

    def use(self, *request_ids: str) -> None:
        """These ids are used from now on, whatever becomes of their requests.

        Raises:
            ProtocolError: REFUSED where that cannot be kept.
        """
        for request_id in request_ids:
            self._used.add(request_id)

    def add(self, request_id: str, request: OpenRequest) -> None:
        """One more waits, whose id is in use."""
        self._open[request_id] = request

    def known(self, request_id: str) -> bool:
        """Whether a request of this id is open, or was of late."""
        return request_id in self._open or request_id in self._used

    def close(self, request_id: str) -> OpenRequest:
        """Take one out; its id is not used again."""
        return self._open.pop(request_id)

    def overdue(self) -> list[str]:
        """Ids of the oldest, where more wait than may."""
        return list(islice(self._open, max(0, len(self._open) - MAX_OPEN)))

    def where(self, holds: Callable[[OpenRequest], bool]) -> list[str]:
        """Ids of those for which it holds."""
        return [request_id for request_id, request in self._open.items() if holds(request)]

    def answered_by(self, payload: ClassifyResponse) -> list[OpenRequest]:
        """The open requests that a response answers, in the order of its parts.

        Raises:
            ProtocolError: REPLAY, BAD_VALUE or MALFORMED where it does not belong to them.
        """
        if response_digest(payload) != payload.digest:
            raise MessageError(FailureCode.MALFORMED, "the reply does not match its digest: it is damaged or mixed up")
        ids = [part.request_id for part in payload.parts]
        closed = [request_id for request_id in ids if request_id not in self._open]
        if closed or len(set(ids)) != len(ids):
            which = f"no request {closed[0][:64]!r} is open" if closed else "a request is answered twice"
            raise ProtocolError(FailureCode.REPLAY, f"{which}: a reply counts once")
        opened = [self._open[request_id] for request_id in ids]
        for part, request in zip(payload.parts, opened, strict=True):
            head = request.head
            if (payload.head_id, payload.head_fingerprint) != (head.head_id, head.fingerprint):
                raise SchemeError(
                    FailureCode.BAD_VALUE,
                    f"the reply is from another head than the one asked ({head.head_id[:64]!r})",
                )
            if part.batch != request.batch:
                raise NumericError(f"the reply is for {part.batch} images, {request.batch} were asked")
            if bool(payload.ciphertexts) != head.encrypted or payload.key_fingerprint != head.key_fingerprint:
                raise SchemeError(FailureCode.BAD_VALUE, "plain reply for an encrypted head, or the other way round")
            if part.saturated > part.batch:
                raise NumericError(f"{part.saturated} of {part.batch} inputs cannot have been scaled down")
        return opened
