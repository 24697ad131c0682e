"""All parties in this process: for tests and debugging. Envelopes are serialised all the same."""

from __future__ import annotations

from rhe_parties.errors import TransportError
from rhe_parties.parties import Party, build_party
from rhe_parties.parties.adversary import AdversarySeat
from rhe_parties.transport.base import ProgressCallback, Transport

__all__ = ["LocalTransport"]


class LocalTransport(Transport):
    """Calls the parties directly, one after the other; time limits are not enforced here."""

    name = "local"

    def __init__(self) -> None:
        self._parties: dict[str, Party] = {}

    def seat(self, party: str, setup: bytes, timeout_seconds: float) -> None:
        """See `Transport.seat`."""
        del timeout_seconds
        self._parties[party] = build_party(setup)

    def deliver(
        self, party: str, data: bytes, timeout_seconds: float, progress: ProgressCallback | None = None
    ) -> list[bytes]:
        """See `Transport.deliver`."""
        del timeout_seconds
        seated = self._seated(party)
        if progress is not None and isinstance(seated, AdversarySeat):
            seated.listener = progress
        return seated.handle_bytes(data)

    def collect(self, party: str, timeout_seconds: float) -> tuple[list[bytes], float | None]:
        """See `Transport.collect`."""
        del timeout_seconds
        seated = self._seated(party)
        return seated.collect(), seated.due()

    def _seated(self, party: str) -> Party:
        seated = self._parties.get(party)
        if seated is None:
            raise TransportError(party, f"no party {party!r} is seated (seated: {', '.join(self._parties) or 'none'})")
        return seated

    def close(self) -> None:
        """See `Transport.close`."""
        self._parties.clear()

    def describe(self) -> str:
        """See `Transport.describe`."""
        return "all parties in one process (local)"
