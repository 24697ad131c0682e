"""The process of one party: `python -m rhe_parties.transport.grpc_seat --socket PATH`, started by `GrpcTransport`.

It serves the service `Seat` of `protos/` on a Unix socket, for whoever may enter the socket's folder, and ends when its
standard input closes: when the process that started it ends, however that comes about. Nothing heavy is imported before
the set-up says which party this is, as a KeyHolder's process holds the key and should load little else.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.messages.frames import SERVICES, chunks
from rhe_parties.messages.seating import Outcome, encode_due, encode_outcome, encode_progress
from rhe_parties.parties import Party, build_party
from rhe_parties.transport.grpc_pieces import SIZE_LIMITS, joined

__all__ = ["main", "serve"]

T = TypeVar("T")

# One call is at work at a time; the others are a look at its progress or health, and calls that were given up.
_HANDLERS = 8


class _Seat:
    """The shell around a party: everything it does is in `rhe_parties.parties`. Takes and gives serialised messages."""

    def __init__(self) -> None:
        self._party: Party | None = None
        # One piece of work at a time, always on the same thread: torch keeps workers for each thread that it serves.
        self._desk = ThreadPoolExecutor(1, "party")

    def service(self) -> grpc.GenericRpcHandler:
        """The handlers by method."""
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Seat": grpc.stream_unary_rpc_method_handler(self.seat),
            "Deliver": grpc.stream_stream_rpc_method_handler(self.deliver),
            "Collect": grpc.unary_stream_rpc_method_handler(self.collect),
            "NextDue": grpc.unary_unary_rpc_method_handler(self.next_due),
            "Progress": grpc.unary_unary_rpc_method_handler(self.progress),
        }
        return grpc.method_handlers_generic_handler(SERVICES["Seat"], methods)

    def seat(self, pieces: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        """Build the party; whatever its set-up raises is told, and then nobody is seated."""
        setup = b"".join(joined(pieces))
        return encode_outcome(self._desk.submit(self._build, setup).result())

    def _build(self, setup: bytes) -> Outcome:
        self._party = None
        try:
            self._party = build_party(setup)
        except Exception as error:
            return Outcome.of(error)
        return Outcome()

    def deliver(self, pieces: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        """Let the party handle one envelope."""
        received = list(joined(pieces))
        if len(received) != 1:
            raise MessageError(FailureCode.MALFORMED, f"{len(received)} envelopes in one delivery")
        return _in_pieces(self._ask(lambda party: party.handle_bytes(received[0])))

    def collect(self, _request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        """What the party held back and is due."""
        return _in_pieces(self._ask(lambda party: party.collect()))

    def next_due(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        """Seconds until the party has something due."""
        return encode_due(self._ask(lambda party: party.due()))

    def progress(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        """How far the strategy at an adversary's seat is; asked while it works."""
        state = getattr(self._party, "progress", None)
        return encode_progress(state.fraction, state.text) if state is not None else encode_progress(0.0, "")

    def _ask(self, work: Callable[[Party], T]) -> T:
        return self._desk.submit(self._on_party, work).result()

    def _on_party(self, work: Callable[[Party], T]) -> T:
        if self._party is None:
            raise RuntimeError("no party is seated in this process")
        return work(self._party)


def _in_pieces(envelopes: list[bytes]) -> Iterator[bytes]:
    for data in envelopes:
        yield from chunks(data)


def serve(socket: str) -> grpc.Server:
    """Start serving an empty seat on the Unix socket at path `socket`; returns the server."""
    server = grpc.server(ThreadPoolExecutor(_HANDLERS, "seat"), options=SIZE_LIMITS)
    server.add_generic_rpc_handlers((_Seat().service(),))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server


def main(arguments: list[str] | None = None) -> None:
    """Serve until standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m rhe_parties.transport.grpc_seat", description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the Unix socket to serve on")
    socket = parser.parse_args(arguments).socket
    # At once, also in the middle of a long computation, whatever the parent did with the signal.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = serve(socket)
    sys.stdin.buffer.read()
    server.stop(0)
    os._exit(0)  # the party may be at work, and nobody is left to wait for it


if __name__ == "__main__":
    main()
