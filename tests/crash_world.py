"""A host and a key holder with what they keep on disk, in one process, that can be killed between any two steps.

What SIGKILL leaves is what the files hold at that moment: they are copied then, and put back once the killed party's
code has been left by an exception, whatever that tidied up on its way out. The other party goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pyrage

from rhe_parties.errors import FailureCode
from rhe_parties.he.scheme import PublicMaterial
from rhe_parties.messages import Envelope, Payload, encode
from rhe_parties.messages import payloads as p
from rhe_parties.model.backbone import load_backbone
from rhe_parties.parties.base import Outgoing, Party
from rhe_parties.parties.model_host import HostLimits, ModelHost
from rhe_parties.service import grpc_hosting as hosting
from rhe_parties.service.audit_log import read_log, verify
from rhe_parties.service.journal import Journal
from rhe_parties.service.ledger import Ledger
from rhe_parties.service.private_files import PrivateFolder
from rhe_parties.service.settings import KeyHolderSettings
from rhe_parties.service.vault import Vault
from rhe_parties.testing.service import CLASSES, DEPLOYMENT, KnownHead, small_plan
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST

ALICE = "client:alice"
BACKBONE = load_backbone("strokenet")


class Killed(BaseException):
    """A party is gone."""


class _Commits:
    """A connection to SQLite that says when something is committed."""

    def __init__(self, connection: Any, tick: Callable[[str], None]) -> None:
        self._connection, self._tick = connection, tick

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> Any:
        commits = statement == "COMMIT"
        if commits:
            self._tick("before commit")
        done = self._connection.execute(statement, *values)
        if commits:
            self._tick("after commit")
        return done


class World:
    """Both parties over one folder, and the owner, operator and client who wait for answers.

    Args:
        folder: new.
        victim: which party is killed.
        at: at which of its steps, from 0; one beyond the last: never.
    """

    def __init__(self, folder: Path, victim: str = "", at: int = -1) -> None:
        self.folder, self.victim, self.at = folder, victim, at
        self.steps: list[str] = []
        self.point, self.kills = "", 0
        self._disks = {MODEL_HOST: folder / "host", KEY_HOLDER: folder / "keys"}
        for disk in self._disks.values():
            disk.mkdir(parents=True)
        self._identity = pyrage.x25519.Identity.generate()
        (self._disks[KEY_HOLDER] / "vault").mkdir(mode=0o700)
        files = PrivateFolder(self._disks[KEY_HOLDER] / "vault")
        Vault(files, self._identity).new_custody(small_plan())
        files.close()
        self._numbers = itertools.count(1)
        self._at_work, self._armed = "", False
        self.decisions: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._right: dict[str, int] = {}
        self._open: dict[int, str] = {}
        self.parties: dict[str, Party] = {}
        self._keepers: dict[str, Any] = {}
        self._closing: dict[str, contextlib.ExitStack] = {}
        for party in self._disks:
            self._start(party)
        self._connect()

    # ---- life and death ----------------------------------------------------------------------------------------

    def _start(self, party: str) -> None:
        disk, stack = self._disks[party], contextlib.ExitStack()
        if party == MODEL_HOST:
            host = ModelHost(DEPLOYMENT, BACKBONE, HostLimits(takes_features=True))
            journal = Journal(disk / "state")
            journal.restore(host)
            self.parties[party], self._keepers[party] = host, journal
        else:
            files = PrivateFolder(disk / "vault")
            stack.callback(files.close)
            files.tidy("identity.age", "key.age", "state.age", "public.binpb")
            vault = Vault(files, self._identity)
            ledger = stack.enter_context(Ledger(disk / "ledger.sqlite"))
            ledger._connection = _Commits(ledger._connection, self._tick)  # type: ignore[assignment]
            settings = KeyHolderSettings(plaintext=True, deployment=DEPLOYMENT)
            holder = hosting._key_holder(settings, DEPLOYMENT, [ALICE], vault, ledger)
            self.parties[party], self._keepers[party] = holder, hosting._KeyHolderKeeper(holder, vault, ledger)
        self.parties[party].number_from(1000 * (1 + self.kills))
        self._closing[party] = stack

    def _connect(self) -> None:
        """What a key holder does that starts or has a new link to the host."""
        self._run(
            [(KEY_HOLDER, LABORATORY, p.AdmitClient(ALICE, 0)), (KEY_HOLDER, MODEL_HOST, p.PublicMaterialRequest())]
        )

    def _tick(self, what: str) -> None:
        """A step of the party at work, at which it may be killed."""
        if not self._armed or self._at_work != self.victim:
            return
        self.steps.append(what)
        if len(self.steps) - 1 == self.at:
            self.point = what
            disk = self._disks[self.victim]
            shutil.copytree(disk, self.folder / "as-it-was", copy_function=shutil.copy2)
            raise Killed

    def _bury(self) -> None:
        """The victim starts again over what its disk held; whoever waited for it is told or not, as links break."""
        self.kills += 1
        self._at_work = ""
        self._closing[self.victim].close()
        disk = self._disks[self.victim]
        shutil.rmtree(disk)
        (self.folder / "as-it-was").rename(disk)
        if self.victim == MODEL_HOST:
            for errand in list(self._open):
                failure = p.Failure(MODEL_HOST, int(FailureCode.UNAVAILABLE), "its link broke")
                self._handle(KEY_HOLDER, MODEL_HOST, failure, errand)
        self._open.clear()
        self._start(self.victim)
        self._connect()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Every durable step of whoever is at work is one at which it may be killed."""

        def around(module: Any, name: str) -> Any:
            real = getattr(module, name)

            def call(*arguments: Any, **options: Any) -> Any:
                self._tick(f"before {name}")
                done = real(*arguments, **options)
                self._tick(f"after {name}")
                return done

            return mock.patch.object(module, name, call)

        with around(os, "fsync"), around(os, "replace"), around(os, "unlink"):
            self._armed = True
            yield
            self._armed = False

    # ---- messages ----------------------------------------------------------------------------------------------

    def tell(self, recipient: str, sender: str, payload: Payload) -> Payload | None:
        """An envelope and all that comes of it; the answer to its sender, None where a kill came between."""
        try:
            return self._run([(recipient, sender, payload)])
        except Killed:
            self._bury()
            return None

    def _run(self, first: list[tuple[str, str, Payload]]) -> Payload | None:
        answer: Payload | None = None
        for recipient, sender, payload in first:
            number = next(self._numbers)
            under_way = deque([Envelope(DEPLOYMENT, sender, recipient, number, 0, payload)])
            while under_way:
                envelope = under_way.popleft()
                if envelope.recipient in self.parties:
                    for out in self._handled(envelope):
                        under_way.append(out)
                elif envelope.recipient == sender and envelope.reply_to == number:
                    answer = envelope.payload
        return answer

    def _handled(self, envelope: Envelope) -> Iterator[Envelope]:
        """As `PartyServer` does: handle, keep, send one after the other."""
        name, data = envelope.recipient, encode(envelope)
        self._at_work = name
        self._tick("before handling")
        outgoing = self.parties[name].respond(data)
        self._tick("before keeping")
        self._keepers[name].keep(envelope.kind, data, outgoing)
        self._tick("before sending")
        for item in outgoing:
            self._at_work = name
            self._sent(item.envelope)
            yield item.envelope
            self._at_work = name
            self._tick("after sending one")
        self._at_work = ""

    def _handle(self, recipient: str, sender: str, payload: Payload, reply_to: int) -> None:
        data = encode(Envelope(DEPLOYMENT, sender, recipient, next(self._numbers), reply_to, payload))
        outgoing: list[Outgoing] = self.parties[recipient].respond(data)
        self._keepers[recipient].keep("failure", data, outgoing)
        for item in outgoing:
            self._sent(item.envelope)

    def _sent(self, envelope: Envelope) -> None:
        payload = envelope.payload
        if isinstance(payload, p.Decision):
            self.decisions[payload.request_id] += 1
            if list(payload.classes) != [self._right[payload.request_id]]:
                self.wrong.append(payload.request_id)
        if envelope.recipient == MODEL_HOST:
            self._open[envelope.sequence] = envelope.kind

    # ---- commands: each is tried until it is done, as their users would ----------------------------------------

    def until(self, recipient: str, sender: str, payload: Payload, answer: type[Any]) -> Any:
        """Ask until it is answered: again after a kill, and no more than that."""
        got: Payload | None = None
        for _ in range(3):
            got = self.tell(recipient, sender, payload)
            if got is not None:
                break
        assert isinstance(got, answer), f"killed {self.point}: {payload!r:.60} got {got!r:.300}"
        return got

    def install(self, head: KnownHead) -> None:
        public = self.until(KEY_HOLDER, DATA_OWNER, p.PublicMaterialRequest(), PublicMaterial)
        encrypted, notice = head.encrypted(public, BACKBONE.fingerprint)
        self.until(MODEL_HOST, DATA_OWNER, encrypted, p.HeadInstalled)
        self.until(KEY_HOLDER, DATA_OWNER, notice, p.HeadReady)

    def ask(self, head: KnownHead) -> Payload | None:
        """One question; after a kill it is put again under the same id, and then under a new one."""
        request_id = f"q{next(self._numbers)}"
        self._right[request_id] = len(self._right) % CLASSES
        question = head.question(request_id, self._right[request_id])
        got = self.tell(KEY_HOLDER, ALICE, question)
        if got is None:
            again = self.until(KEY_HOLDER, ALICE, question, (p.Decision, p.Failure))  # type: ignore[arg-type]
            replayed = isinstance(again, p.Failure) and again.code == FailureCode.REPLAY
            return self.ask(head) if replayed else again
        return got

    def decides(self, head: KnownHead) -> None:
        got = self.ask(head)
        assert isinstance(got, p.Decision), f"killed {self.point}: {got!r:.300}"

    def refuses(self, head: KnownHead) -> None:
        got = self.ask(head)
        assert isinstance(got, p.Failure), f"killed {self.point}: {got!r:.300}"

    # ---- what must hold ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """No decision wrong or twice; every one that went out is counted and in the audit log, whose chain holds."""
        assert self.wrong == []
        assert [request for request, times in self.decisions.items() if times != 1] == []
        ledger = self._disks[KEY_HOLDER] / "ledger.sqlite"
        assert verify(ledger).holds
        logged = sum(row.event == "decision" for row in read_log(ledger))
        assert len(self.decisions) <= logged <= len(self.decisions) + self.kills
        holder: Any = self.parties[KEY_HOLDER]
        assert holder._budgets.decided >= logged
        kept = sorted(path.name for path in (self._disks[MODEL_HOST] / "state").iterdir())
        assert len(kept) == 2, f"the host keeps {kept}, where key and one head are all there is"

    def restart_all(self) -> None:
        """Both end and start again."""
        for party in self._disks:
            self._closing[party].close()
            self._start(party)
        self._connect()

    def close(self) -> None:
        for stack in self._closing.values():
            stack.close()


def play(world: World) -> None:
    """Install, ask, rotate, renew, revoke; whatever was done before a kill stays done."""
    first, second = KnownHead("first", 1), KnownHead("second", 2)
    with world.watched():
        world.install(first)
        world.decides(first)
        world.decides(first)
        world.install(second)
        world.decides(second)
        world.decides(first)
        for _ in range(2):
            # An operator waits for the heads, which come later: here nothing but the new key is waited for.
            before = world.until(KEY_HOLDER, DATA_OWNER, p.PublicMaterialRequest(), PublicMaterial).fingerprint
            world.tell(KEY_HOLDER, LABORATORY, p.RotateKey())
            after = world.until(KEY_HOLDER, DATA_OWNER, p.PublicMaterialRequest(), PublicMaterial).fingerprint
            if before != after:
                break
        assert before != after
        world.refuses(first)
        world.install(first)
        world.install(second)
        world.decides(first)
        world.decides(second)
        for party in (KEY_HOLDER, MODEL_HOST):
            world.until(party, DATA_OWNER, p.RevokeHead("second"), p.HeadRevoked)
        world.refuses(second)
        world.decides(first)
    world.restart_all()
    world.refuses(second)
    world.decides(first)
    world.check()
