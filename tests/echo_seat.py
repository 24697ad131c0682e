"""A seat's process whose party gives back what it is told, for tests of the transport alone; loads in half a second."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace

from rhe_parties.errors import NumericError
from rhe_parties.parties import Party
from rhe_parties.transport import grpc_seat

AWAKE, ASLEEP = SimpleNamespace(fraction=0.0, text=""), SimpleNamespace(fraction=0.5, text="asleep")


class Echo(Party):
    """`sleep SECONDS`, `crash` and `raise` do what they say; all else comes back, and twice what comes in pieces."""

    def __init__(self) -> None:
        super().__init__("echo", "run")
        self.progress = AWAKE
        self.held = [b"first", b"", b"third"]

    def handle_bytes(self, data: bytes) -> list[bytes]:
        word, _, rest = data[:100].decode(errors="replace").partition(" ")
        if word == "sleep":
            self.progress = ASLEEP
            time.sleep(float(rest))
            self.progress = AWAKE
        if word == "crash":
            sys.stderr.write("no more of this\n\n")
            sys.stderr.flush()
            os._exit(3)
        if word == "raise":
            raise ValueError("a defect")
        return [data, data]

    def due(self) -> float | None:
        return 0.25 if self.held else None

    def collect(self) -> list[bytes]:
        held, self.held = self.held, []
        return held


def build_party(setup: bytes) -> Party:
    """The echo, or the error that the set-up names."""
    if setup == b"numeric":
        raise NumericError("a constant feature")
    if setup == b"value":
        raise ValueError("a defect\nof two lines")
    return Echo()


if __name__ == "__main__":
    grpc_seat.build_party = build_party  # type: ignore[assignment]
    grpc_seat.main()
