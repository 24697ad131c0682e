"""Fuzzing: spoilt messages of every kind for all three parties, and proof that they go on as if nothing had been.

For every message: no exception escapes, the answer is a list of envelopes of that party, and it comes in time. Among
the messages honest questions are asked of which one envelope is spoilt on its way; a decision that comes of it must
be the right one, unless checksums were made anew to fit. Memory is compared before and after.
"""

from __future__ import annotations

import _thread
import gc
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

import psutil

from rhe_parties.errors import FailureCode, ParameterError, RheError
from rhe_parties.messages import Envelope
from rhe_parties.messages.payloads import ClassifyRequest, ClassifyResponse, Decision, Failure
from rhe_parties.parties.base import Party
from rhe_parties.parties.fuzz_world import HEADS, RUN_ID, FuzzWorld, Sent
from rhe_parties.parties.mutations import RESPONSE_MUTATIONS, Mutant, Mutator, readable
from rhe_parties.rng import numpy_stream
from rhe_parties.threads import limited_threads
from rhe_parties.threat.model import KEY_HOLDER, LABORATORY

__all__ = ["FuzzReport", "fuzz"]

T = TypeVar("T")

#: Seconds that one message may take.
TIME_LIMIT = 5.0
#: Bytes that the process may grow by after the first tenth of the messages.
MEMORY_TOLERANCE = 64 * 2**20
# After these nothing is served until ordinary commands have restored it, which takes long.
_UNDOING = ("rotate_key", "public_material")
_LATE_MESSAGES = 256
_MOST_DEFECTS = 20


@dataclass
class FuzzReport:
    """What came of a fuzz run.

    Attributes:
        answers: outcome of each spoilt message: refused by which code, answered, or nothing to say.
        questions: what came of honest questions of which an envelope was spoilt: see `_Exchange`.
        defects: what must never happen; empty in a good run.
    """

    seed: int
    messages: int = 0
    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    mutations: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    restored: int = 0
    slowest_seconds: float = 0.0
    memory_growth_bytes: int = 0
    memory_tolerance_bytes: int = MEMORY_TOLERANCE
    defects: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing happened that must not."""
        return not self.defects

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        counts = {name: dict(value.most_common()) for name, value in values.items() if isinstance(value, Counter)}
        rate = self.messages / self.seconds if self.seconds else 0.0
        return values | counts | {"ok": self.ok, "messages_per_second": round(rate, 1)}

    def defect(self, text: str) -> None:
        """Note what must not happen; only the first ones are kept."""
        if len(self.defects) < _MOST_DEFECTS:
            self.defects.append(text)


def fuzz(messages: int, seed: int = 0, progress: Callable[[int], None] | None = None) -> FuzzReport:
    """Send `messages` spoilt messages; the same seed gives the same mutations (ciphertexts differ with the keys).

    Args:
        progress: called with the number of messages so far, every hundred.

    Raises:
        ParameterError: fewer than one message.
        RheError: a message hung, or the parties do not do honest work at all.
    """
    if messages < 1:
        raise ParameterError(f"messages={messages} is not allowed: at least 1")
    with limited_threads(1):
        return _fuzz(messages, seed, progress)


def _fuzz(messages: int, seed: int, progress: Callable[[int], None] | None) -> FuzzReport:
    run = _Run(seed)
    with _Watchdog(run):
        run.world.restore()
        started, warm, before = time.perf_counter(), max(messages // 10, 1), 0
        while run.report.messages < messages:
            run.step()
            if before == 0 and run.report.messages >= warm:
                before = _memory()
            if progress is not None and run.report.messages % 100 == 0:
                progress(run.report.messages)
        run.report.seconds = time.perf_counter() - started
        run.restore()
    run.report.memory_growth_bytes = max(_memory() - before, 0)
    if run.report.memory_growth_bytes > MEMORY_TOLERANCE:
        run.report.defect(f"memory grew by {run.report.memory_growth_bytes} bytes")
    return run.report


def _memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


class _Run:
    def __init__(self, seed: int) -> None:
        self.report = FuzzReport(seed)
        self._rng = numpy_stream(seed, "fuzz")
        self._mutator = Mutator(self._rng)
        self._late: deque[Sent] = deque(maxlen=_LATE_MESSAGES)
        self.since: float | None = None
        self.last = ""
        self.world = FuzzWorld(seed, self.deliver)

    def step(self) -> None:
        """One spoilt message, or an honest question of which one envelope is spoilt."""
        draw = int(self._rng.integers(100))
        if draw < 70:
            self._stray()
        elif draw < 95:
            self._question()
        else:
            self._late_message()

    def restore(self) -> None:
        """Ordinary commands put everything right again: the parties are alive and well."""
        try:
            self.world.restore()
            self.report.restored += 1
        except RheError as error:
            self.report.defect(f"after {self.report.messages} messages: {error}")

    # ---- delivering --------------------------------------------------------------------------------------------

    def deliver(self, party: Party, data: bytes) -> list[bytes]:
        """Hand over bytes, and check everything that must hold of the answer."""
        self.since = time.perf_counter()
        try:
            replies = party.handle_bytes(data)
        except Exception as error:
            self.report.defect(f"{type(error).__name__} escaped from {party.name} ({self.last}): {error}")
            return []
        finally:
            seconds, self.since = time.perf_counter() - self.since, None
            self.report.slowest_seconds = max(self.report.slowest_seconds, seconds)
        if seconds > TIME_LIMIT:
            self.report.defect(f"{party.name} took {seconds:.1f} s over one message ({self.last})")
        for reply in replies:
            self._check_reply(party, reply)
        return replies

    def _check_reply(self, party: Party, data: bytes) -> None:
        envelope = readable(data)
        if envelope is None or (envelope.sender, envelope.run_id) != (party.name, RUN_ID):
            self.report.defect(f"{party.name} answered with something unreadable ({self.last})")
        elif isinstance(envelope.payload, Failure) and envelope.payload.code == FailureCode.INTERNAL:
            self.report.defect(f"{party.name} stumbled ({self.last}): {envelope.payload.text}")

    def _spoilt(self, sent: Sent, mutant: Mutant) -> list[bytes]:
        """Deliver a mutant and count what it came to."""
        self.last = f"{sent.kind}, {mutant.name}"
        self.report.messages += 1
        self.report.kinds[sent.kind] += 1
        self.report.mutations[mutant.name] += 1
        replies = self.deliver(self.world.parties[sent.recipient], mutant.data)
        failures = [e.payload for e in map(readable, replies) if e is not None and isinstance(e.payload, Failure)]
        if failures:
            self.report.answers[f"refused: {FailureCode(failures[0].code).name}"] += 1
        else:
            self.report.answers["answered" if replies else "nothing to say"] += 1
        return replies

    # ---- what is sent ------------------------------------------------------------------------------------------

    def _pick(self) -> Sent:
        """Any message: kinds first, so that rare ones come as often as others; seldom those that undo everything."""
        by_kind = self.world.by_kind
        kind = self._any(sorted(by_kind))
        if kind in _UNDOING and self._rng.integers(4):
            kind = self._any(sorted(by_kind))
        return self._any(by_kind[kind])

    def _any(self, items: Sequence[T]) -> T:
        return items[int(self._rng.integers(len(items)))]

    def _stray(self) -> None:
        sent, other = self._pick(), self._pick()
        if self._rng.integers(10) == 0:  # at the wrong door
            sent = Sent(self._any(sorted(self.world.parties)), sent.kind, sent.data)
        replies = self._spoilt(sent, self._mutator.draw(sent.data, other.data))
        for data in replies:
            envelope = readable(data)
            # Some answers travel on, later and in another order. Not heads: an owner that was told to train another
            # one in its place would be obeyed, and "right" would mean something else.
            if envelope is not None and envelope.recipient in self.world.parties and envelope.kind != "encrypted_head":
                self._late.append(Sent(envelope.recipient, envelope.kind, data))

    def _late_message(self) -> None:
        if not self._late:
            return
        at = int(self._rng.integers(len(self._late)))
        sent = self._late[at]
        del self._late[at]
        for data in self._spoilt(sent, Mutant(sent.data, "late, in another order")):
            envelope = readable(data)
            if envelope is not None and envelope.recipient in self.world.parties:
                self._late.append(Sent(envelope.recipient, envelope.kind, data))

    def _question(self) -> None:
        """One to three honest questions for one head; one envelope between key holder and host is spoilt."""
        world = self.world
        head_id = self._any(HEADS)
        asked: dict[str, tuple[int, int]] = {}
        first = []
        for _ in range(1 + int(self._rng.integers(3))):
            place, right = self._any(world.questions[head_id])
            ask = world.ask(head_id, place)
            data, sequence = world.envelope(KEY_HOLDER, ask)
            asked[ask.request_id] = (right, sequence)
            first.append(data)
        wanted = ClassifyResponse if self._rng.integers(4) else ClassifyRequest
        exchange = _Exchange(self, wanted)
        arrived = world.route(first, exchange.through)
        if exchange.count(arrived, asked):
            self.restore()


class _Exchange:
    """Honest questions of which one envelope is spoilt; the honest one arrives right after its spoilt double."""

    def __init__(self, run: _Run, wanted: type[ClassifyRequest] | type[ClassifyResponse]) -> None:
        self._run = run
        self._wanted = wanted
        self.mutant: Mutant | None = None
        self._replies: list[bytes] = []

    def through(self, sent: Sent) -> list[bytes]:
        """Spoil the first envelope of the wanted kind."""
        envelope = readable(sent.data)
        if self.mutant is not None or envelope is None or not isinstance(envelope.payload, self._wanted):
            return [sent.data]
        names = RESPONSE_MUTATIONS if self._wanted is ClassifyResponse else None
        other = self._run._pick()
        self.mutant = self._run._mutator.draw(sent.data, other.data, names)
        self._replies = self._run._spoilt(sent, self.mutant)
        return [sent.data]

    def count(self, arrived: list[Envelope], asked: dict[str, tuple[int, int]]) -> bool:
        """Compare what came of the questions with what is right; whether an honest service was not to be had.

        Args:
            arrived: what reached the laboratory, besides the answers to the mutant itself.
            asked: right class and number of the question's envelope, by request id.
        """
        mine = [e for e in map(readable, self._replies) if e is not None and e.recipient == LABORATORY]
        answers = [*mine, *arrived]
        decisions = {e.payload.request_id: e.payload for e in answers if isinstance(e.payload, Decision)}
        refused = {e.reply_to for e in answers if isinstance(e.payload, Failure)}
        for request_id, (right, sequence) in asked.items():
            decision = decisions.get(request_id)
            if decision is None:
                # Open for good: what the host says of this head is refused, since a mutant changed what is known of it.
                outcome = "refused by name" if sequence in refused else "left open"
            else:
                outcome = "right" if list(decision.classes) == [right] else self._wrong()
            self._run.report.questions[outcome] += 1
        return not decisions

    def _wrong(self) -> str:
        """Why a class is not the right one; only two reasons are no defect."""
        if self.mutant is not None and self.mutant.resealed:
            return "wrong, checksums made anew"
        if self._wanted is ClassifyRequest:
            return "other class for a changed input"
        self._run.report.defect(f"a wrong class without a sign ({self.mutant.name if self.mutant else 'unspoilt'})")
        return "wrong without a sign"


class _Watchdog:
    """Interrupts a message that takes many times the limit; one that native code holds shows in the next."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._stop = threading.Event()
        self._bitten = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            since = self._run.since
            if since is not None and time.perf_counter() - since > 4 * TIME_LIMIT:
                self._bitten = True
                _thread.interrupt_main()
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._bitten and kind is KeyboardInterrupt:
            raise RheError(f"a message hung for more than {4 * TIME_LIMIT:g} s ({self._run.last})") from None
