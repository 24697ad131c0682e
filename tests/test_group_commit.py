"""A server that keeps what several envelopes want kept by one commit: nothing goes out of what could not be kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import cast

import numpy as np

from rhe_parties.errors import FailureCode, ProtocolError
from rhe_parties.messages import Envelope, encode
from rhe_parties.messages.payloads import AdmitClient, AskDecisions, ClassifyRequest, Failure, HeadNotice
from rhe_parties.parties.base import Outgoing
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.service.grpc_links import Link
from rhe_parties.service.grpc_server import Limits, NothingKept, PartyServer
from rhe_parties.threat.model import DATA_OWNER, LABORATORY, MODEL_HOST

CLIENTS = ("client:a", "client:b")


class _FullDisk(NothingKept):
    def together(self) -> AbstractContextManager[object]:
        return self._failing()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        yield
        raise ProtocolError(FailureCode.REFUSED, "the ledger cannot be written: disk full")


def _asked(keeper: NothingKept) -> tuple[KeyHolder, list[Outgoing]]:
    """What goes out when two clients ask in one turn of the thread."""
    holder = KeyHolder("run", None)
    server = PartyServer(
        holder, lambda _context: Link(""), keeper, Limits(), MODEL_HOST, lambda *_: None, lambda *_: None
    )
    notice = HeadNotice("h", "f", False, 0.0, 3)
    holder.respond(encode(Envelope("run", DATA_OWNER, holder.name, 1, 0, notice)))
    turns = []
    for number, client in enumerate(CLIENTS):
        holder.respond(encode(Envelope("run", LABORATORY, holder.name, 2 + number, 0, AdmitClient(client, 0))))
        features = np.ones((1, 4), dtype=np.float32)
        ask = encode(Envelope("run", client, holder.name, 9, 0, AskDecisions(client, "h", features=features)))
        turns.append(partial(server._handle, Link(client), ask))
    results = server._together(turns)
    handled = [result for result in results if not isinstance(result, Exception)]
    assert len(handled) == len(CLIENTS)
    return holder, [item for result in handled for item in result.outgoing]


def test_what_is_kept_together_goes_out() -> None:
    _, outgoing = _asked(NothingKept())
    assert [type(item.envelope.payload) for item in outgoing] == [ClassifyRequest, ClassifyRequest]


def test_what_could_not_be_kept_is_refused_once_to_everybody_and_waits_for_nothing() -> None:
    holder, outgoing = _asked(_FullDisk())
    assert [(item.envelope.recipient, item.envelope.reply_to) for item in outgoing] == [(c, 9) for c in CLIENTS]
    for item in outgoing:
        failure = cast(Failure, item.envelope.payload)
        assert "disk full" in failure.text
    assert len(holder._open) == 0


def test_what_no_party_takes_ends_its_own_link_alone() -> None:
    holder = KeyHolder("run", None)
    server = PartyServer(
        holder, lambda _context: Link(""), NothingKept(), Limits(), MODEL_HOST, lambda *_: None, lambda *_: None
    )
    good = encode(Envelope("run", LABORATORY, holder.name, 2, 0, AdmitClient("client:a", 0)))
    results = server._together([partial(server._handle, Link(LABORATORY), data) for data in (b"\xff", good)])
    assert isinstance(results[0], ProtocolError)
    assert not isinstance(results[1], Exception)
