"""Numbers of a server for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from rhe_parties.errors import FailureCode, TransportError
from rhe_parties.messages.payloads import ClassifyResponse, Decision, Failure
from rhe_parties.parties.base import Outgoing

__all__ = ["Telemetry"]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_GATHERED = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Telemetry:
    """Counts what a server does; labels are kinds of messages and failure codes, never names of clients or heads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._received = Counter("rhe_envelopes_received", "Envelopes handled.", ["kind"], registry=self.registry)
        self._seconds = Histogram(
            "rhe_handling_seconds", "Seconds the party took.", ["kind"], buckets=_SECONDS, registry=self.registry
        )
        self._failures = Counter("rhe_failures", "Refusals sent.", ["code"], registry=self.registry)
        self._decided = Counter("rhe_inputs_decided", "Inputs that decisions went out for.", registry=self.registry)
        self._gathered = Histogram(
            "rhe_inputs_gathered", "Inputs of one reply of the host.", buckets=_GATHERED, registry=self.registry
        )
        self._events = Counter("rhe_events", "Links opened, closed and refused.", ["event"], registry=self.registry)

    def watch(self, waiting: Callable[[], float], links: Callable[[], float]) -> None:
        """Read these whenever somebody looks."""
        for name, text, read in (
            ("rhe_requests_waiting", "Requests without an answer.", waiting),
            ("rhe_links_open", "Open links.", links),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)

    def handled(self, kind: str, seconds: float, outgoing: list[Outgoing]) -> None:
        """One envelope was handled, or, with "" as its kind, what was held back went out."""
        if kind:
            self._received.labels(kind).inc()
        self._seconds.labels(kind or "held back").observe(seconds)
        for item in outgoing:
            payload = item.envelope.payload
            if isinstance(payload, Failure):
                self._failures.labels(FailureCode(payload.code).name).inc()
            elif isinstance(payload, Decision):
                self._decided.inc(len(payload.classes))
            elif isinstance(payload, ClassifyResponse):
                self._gathered.observe(payload.batch)

    def happened(self, event: str) -> None:
        """Something happened to a link."""
        self._events.labels(event).inc()

    def serve(self, address: str) -> Callable[[], None]:
        """Let Prometheus read at host:port; returns what ends that.

        Raises:
            TransportError: the address cannot be listened at.
        """
        host, _, port = address.rpartition(":")
        try:
            server, thread = start_http_server(int(port), host.strip("[]") or "127.0.0.1", self.registry)
        except (OSError, ValueError, OverflowError) as error:
            raise TransportError("metrics", f"cannot offer metrics at {address!r}: {error}") from error

        def end() -> None:
            server.shutdown()
            thread.join()

        return end
