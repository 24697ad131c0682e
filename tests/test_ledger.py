"""The ledger: what was written survives the process, what was changed is found, and nothing is given out twice."""

from __future__ import annotations

import json
import resource
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from rhe_parties.cli.main import main
from rhe_parties.errors import BudgetError, DataError, FailureCode, ProtocolError
from rhe_parties.messages import Envelope, Payload
from rhe_parties.messages import payloads as p
from rhe_parties.messages.fingerprints import sealed
from rhe_parties.parties.base import Outgoing
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.parties.known_heads import KnownHeads
from rhe_parties.parties.recent import id_hash
from rhe_parties.service.audit_log import read_log, verify
from rhe_parties.service.auditor import Auditor
from rhe_parties.service.durable import DurableBudgets, DurableIds
from rhe_parties.service.ledger import AuditEvent, Event, Ledger
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST

IMAGES = np.zeros((2, 1, 4, 4), dtype=np.uint8)
ALICE = "client:alice"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path) as opened:
        yield opened


def _exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


def _tamper(path: Path, *statements: str) -> None:
    """As somebody would who has the file: without the triggers."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for trigger in ("audit_update", "audit_delete", "audit_insert"):
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in statements:
            connection.execute(statement)


# ---- audit log -------------------------------------------------------------------------------------------------------


def test_events_are_chained_and_go_on_after_a_restart(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.record(AuditEvent.STARTED, KEY_HOLDER, version=1)
        ledger.record_all([Event(AuditEvent.DECISION, ALICE, {"head": "h", "images": n}) for n in (1, 2)])
    with Ledger(path) as ledger:
        ledger.record(AuditEvent.STOPPED, KEY_HOLDER)
        rows = read_log(path)  # beside the process that writes
        assert ledger.last_hash == rows[-1].hash
    assert [row.event for row in rows] == ["started", "decision", "decision", "stopped"]
    assert [row.id for row in rows] == [1, 2, 3, 4]
    assert rows[2].facts == {"head": "h", "images": 2}
    assert rows[0].time < rows[-1].time
    assert rows[0].time.endswith("+00:00")
    assert read_log(path, 2) == rows[2:]
    assert verify(path) == verify(path, noted=rows[1].hash)
    assert (verify(path).rows, verify(path).hash, verify(path).holds) == (4, rows[-1].hash, True)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET who = 'nobody'",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit VALUES (1, '', '', '', '{}', '', '')",
        "INSERT INTO audit VALUES (0, '', '', '', '{}', '', '')",
    ],
)
def test_the_database_itself_refuses_to_change_the_log(statement: str, ledger: Ledger, path: Path) -> None:
    ledger.record(AuditEvent.STARTED, KEY_HOLDER)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    assert verify(path).rows == 1


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE audit SET details = '{\"images\": 1}' WHERE id = 3", "row 3 was changed"),
        ("UPDATE audit SET time = '2001' WHERE id = 1", "row 1 was changed"),
        ("DELETE FROM audit WHERE id = 2", "row 2 is missing"),
        ("UPDATE audit SET previous = hash WHERE id = 4", "row 4 does not name the hash"),
        ("DELETE FROM audit WHERE id > 3", "the log was cut or replaced"),
    ],
)
def test_whatever_was_changed_is_found(
    statement: str, found: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger(path) as ledger:
        ledger.record_all([Event(AuditEvent.DECISION, ALICE, {"images": n}) for n in range(5)])
        noted = ledger.last_hash
    assert _exit_code(["audit", str(path), "--verify", "--noted", noted]) == 0
    assert noted in capsys.readouterr().out
    _tamper(path, statement)
    assert found in verify(path, noted).broken
    assert _exit_code(["audit", str(path), "--verify", "--noted", noted, "--json"]) == 1
    output = capsys.readouterr()
    assert found in output.err
    assert json.loads(output.out)["holds"] is False


def test_the_command_shows_the_newest_rows(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(path) as ledger:
        for number in range(3):
            ledger.record(AuditEvent.DECISION, ALICE, head=f"[red]head-{number}")
    assert _exit_code(["audit", str(path), "--last", "2", "--json"]) == 0
    assert [row["details"]["head"] for row in json.loads(capsys.readouterr().out)] == ["[red]head-1", "[red]head-2"]
    assert _exit_code(["audit", str(path)]) == 0
    assert "[red]head-0" in capsys.readouterr().out
    assert _exit_code(["audit", str(path), "--noted", "00"]) == 2
    assert _exit_code(["audit", f"{path}.not"]) == 2
    assert "no ledger at" in capsys.readouterr().err


def test_one_process_has_a_ledger_and_it_must_be_one(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another process is using the ledger"):
        Ledger(path)
    text, other, newer = tmp_path / "text", tmp_path / "other.db", tmp_path / "newer.db"
    text.write_text("no database at all, but long enough to look like one" * 100)
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE audit (id)")
    Ledger(newer).close()
    _tamper(newer, "PRAGMA user_version = 9")
    for file, message in (
        (text, "cannot open the ledger .*not a database"),
        (other, "is a database, but no ledger"),
        (newer, "has version 9; this program reads version 1"),
        (tmp_path / "none" / "l.db", "cannot open the ledger .*No such file"),
    ):
        for _ in range(2):  # the lock was let go of
            with pytest.raises(DataError, match=message):
                Ledger(file)


# ---- budgets and ids -------------------------------------------------------------------------------------------------


def test_budgets_and_ids_go_on_after_a_restart(path: Path) -> None:
    with Ledger(path) as ledger:
        budgets, used = DurableBudgets(ledger, 0, max_clients=1), DurableIds(ledger)
        budgets.admit(ALICE, 5)
        budgets.count(ALICE, "h", 3)
        used.add("one")
        used.add("one")
        with pytest.raises(ProtocolError, match="1 clients are admitted"):
            budgets.admit("client:bob", 5)
    with Ledger(path) as ledger:
        budgets, used = DurableBudgets(ledger, 9), DurableIds(ledger)
        assert (budgets.clients, budgets.used(ALICE, "h"), budgets.decided, len(used)) == ((ALICE,), 3, 3, 1)
        assert "one" in used
        assert "two" not in used
        with pytest.raises(BudgetError, match="3 of 5 images"):
            budgets.count(ALICE, "h", 3)
        budgets.count(ALICE, "h", 2)
        budgets.admit(ALICE, 0)
        budgets.count(ALICE, "g", 4)
        with pytest.raises(ProtocolError, match="9 of 9 images"):
            budgets.count(ALICE, "g", 1)


def test_what_belongs_together_is_kept_together(ledger: Ledger, path: Path) -> None:
    budgets, used = DurableBudgets(ledger), DurableIds(ledger)

    def all_but_the_end() -> None:
        with budgets.together():
            budgets.admit(ALICE, 1)
            budgets.admit(ALICE, 2)
            budgets.count(ALICE, "h", 1)
            used.add("one")
            ledger.record(AuditEvent.DECISION, ALICE)
            raise KeyError

    with pytest.raises(KeyError):
        all_but_the_end()
    assert (budgets.clients, budgets.decided, len(used), "one" in used) == ((), 0, 0, False)
    ledger.record(AuditEvent.STARTED, KEY_HOLDER)
    assert verify(path).rows == 1


_CRASHES = """
import os, random, signal, sys
from pathlib import Path
from rhe_parties.errors import BudgetError
from rhe_parties.service.durable import DurableBudgets, DurableIds
from rhe_parties.service.ledger import AuditEvent, Ledger

path, rounds, budget = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
drawn = random.Random(0)

def serve(start, told):
    with Ledger(path) as ledger:
        budgets, used = DurableBudgets(ledger), DurableIds(ledger)
        budgets.admit("alice", budget)
        os.write(told, b"0")
        for number in range(start, start + 1000):
            with budgets.together():
                budgets.count("alice", "h", 1)
                used.add(f"request-{number}")
                ledger.record(AuditEvent.DECISION, "alice", request=number)
            os.write(told, b"1")

answered = {}
for start in range(0, 1000 * rounds, 1000):
    ours, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            serve(start, told)
        finally:
            os._exit(0)
    os.close(told)
    stop, count = drawn.randrange(1, 8), 0
    while count < stop and os.read(ours, 1):
        count += 1
    for _ in range(drawn.randrange(2000)):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while os.read(ours, 1):
        count += 1
    os.close(ours)
    answered[start] = max(count - 1, 0)

with Ledger(path) as ledger:
    budgets, used = DurableBudgets(ledger), DurableIds(ledger)
    lost = sum(f"request-{start + n}" not in used for start, count in answered.items() for n in range(count))
    print(sum(answered.values()), budgets.decided, budgets.used("alice", "h"), len(used), lost)
    try:
        for number in range(budget):
            budgets.count("alice", "h", 1)
    except BudgetError:
        print(number)
"""


def test_a_budget_is_exact_after_a_hundred_kills(path: Path) -> None:
    rounds, budget = 100, 2000
    done = subprocess.run(
        [sys.executable, "-c", _CRASHES, str(path), str(rounds), str(budget)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answered, decided, used, ids, lost, left = map(int, done.stdout.split())
    assert decided == used == ids == verify(path).rows
    assert lost == 0
    assert answered <= decided <= answered + rounds  # the one that was under way when the process was killed
    assert answered > rounds
    assert left == budget - decided
    assert verify(path).holds


# ---- a disk that is full ---------------------------------------------------------------------------------------------


@contextmanager
def _no_room(ledger: Ledger, how: str) -> Iterator[None]:
    if how == "pages":  # found when a row is put in
        (pages,) = ledger._connection.execute("PRAGMA page_count").fetchone()
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
        yield
        ledger._connection.execute("PRAGMA max_page_count = 1000000")
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)  # found when it is written out
    size = Path(f"{ledger._path}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _tell(holder: KeyHolder, sender: str, sequence: int, payload: Payload, reply_to: int = 0) -> list[Envelope]:
    return holder.handle(Envelope("r", sender, KEY_HOLDER, sequence, reply_to, payload))


def _holder(ledger: Ledger, whole: int = 0) -> KeyHolder:
    holder = KeyHolder("r", None, budgets=DurableBudgets(ledger, whole), used=DurableIds(ledger))
    _tell(holder, DATA_OWNER, 1, p.HeadNotice("h", "f", False, 0.0, 3))
    return holder


def _response(request_id: str) -> p.ClassifyResponse:
    logits = np.array([[1, 2, 3], [3, 2, 1]], dtype=np.float32)
    return sealed(p.ClassifyResponse("h", "f", "", (p.ResponsePart(request_id, 2, 0),), logits, ()))


def test_an_accepted_request_stays_used_and_counted_after_a_crash(path: Path) -> None:
    with Ledger(path) as ledger:
        holder = _holder(ledger)
        _tell(holder, LABORATORY, 1, p.AdmitClient(ALICE, 5))
        (request,) = _tell(holder, ALICE, 1, p.AskDecisions("q", "h", IMAGES))
        assert isinstance(request.payload, p.ClassifyRequest)
    with Ledger(path) as ledger:  # before any answer came
        holder = _holder(ledger)
        (refusal,) = _tell(holder, ALICE, 2, p.AskDecisions("q", "h", IMAGES))
        assert isinstance(refusal.payload, p.Failure)
        assert refusal.payload.code == FailureCode.REPLAY
        (late,) = _tell(holder, MODEL_HOST, 1, _response("q"), request.sequence)
        assert isinstance(late.payload, p.Failure)
        assert late.payload.code == FailureCode.REPLAY
        (asked,) = _tell(holder, ALICE, 3, p.AskDecisions("q2", "h", IMAGES))
        (decision,) = _tell(holder, MODEL_HOST, 2, _response("q2"), asked.sequence)
        assert isinstance(decision.payload, p.Decision)
        assert decision.payload.used == 4
        (spent,) = _tell(holder, ALICE, 4, p.AskDecisions("q3", "h", IMAGES))
        assert isinstance(spent.payload, p.Failure)
        assert spent.payload.code == FailureCode.BUDGET


def test_a_host_answers_no_request_twice_either(path: Path) -> None:
    from rhe_parties.model.backbone import load_backbone
    from rhe_parties.parties.model_host import ModelHost

    backbone = load_backbone("strokenet")
    head = p.PlainHead("h", np.zeros((3, backbone.features), np.float32), np.zeros(3, np.float32), backbone.fingerprint)
    kinds = []
    for _ in range(2):
        with Ledger(path) as ledger:
            host = ModelHost("r", backbone, used=DurableIds(ledger))
            host.handle(Envelope("r", DATA_OWNER, MODEL_HOST, 1, 0, head))
            ask = p.ClassifyRequest("q", "h", np.zeros((1, 1, 28, 28), dtype=np.uint8))
            (reply,) = host.handle(Envelope("r", KEY_HOLDER, MODEL_HOST, 1, 0, ask))
            kinds.append(reply.kind)
    assert kinds == ["classify_response", "failure"]


@pytest.mark.parametrize("how", ["pages", "file size"])
def test_a_full_disk_refuses_the_request_and_the_party_goes_on(how: str, ledger: Ledger, path: Path) -> None:
    holder = _holder(ledger)
    _tell(holder, LABORATORY, 1, p.AdmitClient(ALICE, 0))
    refused, asked = 0, 0
    with _no_room(ledger, how):
        for asked in range(1, 400):  # until the pages that are there are full
            (reply,) = _tell(holder, ALICE, asked, p.AskDecisions(f"q{asked}", "h", IMAGES))
            refused += isinstance(reply.payload, p.Failure)
            if refused:
                break
        assert isinstance(reply.payload, p.Failure)
        assert reply.payload.code == FailureCode.REFUSED
        assert "the ledger cannot be written" in reply.payload.text
    (again,) = _tell(holder, ALICE, 500, p.AskDecisions(f"q{asked}", "h", IMAGES))
    assert isinstance(again.payload, p.ClassifyRequest)
    with pytest.raises(ProtocolError, match="cannot be written"), _no_room(ledger, "file size"):
        ledger.record(AuditEvent.DECISION, ALICE)
    ledger.record(AuditEvent.STOPPED, KEY_HOLDER)
    ledger.close()
    assert verify(path).holds
    with Ledger(path) as reopened:  # exactly what was accepted, by memory and by disk
        assert DurableBudgets(reopened).decided == 2 * asked == holder._budgets.decided
        assert len(DurableIds(reopened)) == asked


def test_a_ledger_that_is_closed_refuses(ledger: Ledger) -> None:
    holder, used = _holder(ledger), DurableIds(ledger)
    ledger.close()
    with pytest.raises(ProtocolError, match="cannot be read"):
        assert "q" in used
    (reply,) = _tell(holder, LABORATORY, 1, p.AskDecisions("q", "h", IMAGES))
    assert isinstance(reply.payload, p.Failure)
    assert reply.payload.code == FailureCode.REFUSED


# ---- what a key holder writes down -----------------------------------------------------------------------------------


def test_decisions_and_refusals_are_written_down_without_what_was_decided(ledger: Ledger, path: Path) -> None:
    holder = KeyHolder("r", None, budgets=DurableBudgets(ledger), used=DurableIds(ledger))
    auditor = Auditor(ledger, lambda: holder.closures)

    def tell(sender: str, sequence: int, payload: Payload) -> list[Envelope]:
        replies = holder.handle(Envelope("r", sender, KEY_HOLDER, sequence, 0, payload))
        auditor.keep("", b"", [Outgoing(reply, b"") for reply in replies])
        return replies

    tell(DATA_OWNER, 1, p.HeadNotice("h", "f", False, 0.0, 3))
    tell(LABORATORY, 1, p.AdmitClient(ALICE, 2))
    for request_id in ("q-secret", "q-secret", "q2"):
        tell(ALICE, 1, p.AskDecisions(request_id, "h", IMAGES))
    tell(MODEL_HOST, 1, _response("q-secret"))
    tell(MODEL_HOST, 2, _response("q-secret"))
    tell(DATA_OWNER, 2, p.RevokeHead("h"))
    rows = [(row.event, row.who, row.facts) for row in read_log(path)]
    assert rows[:5] == [
        ("head registered", DATA_OWNER, {"head": "h"}),
        ("client admitted", LABORATORY, {"client": ALICE, "budget": 2, "release": "classes"}),
        ("refusal", ALICE, {"code": "REPLAY", "by": KEY_HOLDER}),
        ("refusal", ALICE, {"code": "BUDGET", "by": KEY_HOLDER}),
        ("decision", ALICE, {"head": "h", "images": 2, "used": 2, "request": id_hash("q-secret").hex()}),
    ]
    assert rows[5][:2] == ("reply refused", MODEL_HOST)
    assert rows[5][2]["code"] == "REPLAY"
    assert rows[6:] == [("head revoked", DATA_OWNER, {"head": "h", "was known": True})]


def test_a_rotation_is_written_down(ledger: Ledger, path: Path) -> None:
    from rhe_parties.he.planner import plan_head

    holder = KeyHolder("r", plan_head(16, 2))
    old = holder.fingerprint
    replies = _tell(holder, LABORATORY, 1, p.RotateKey())
    Auditor(ledger, dict).keep("rotate_key", b"", [Outgoing(reply, b"") for reply in replies])
    assert [(row.event, row.facts) for row in read_log(path)] == [
        ("key rotated", {"key": holder.fingerprint}),
        ("heads renewed", {"key": holder.fingerprint, "replaced": old, "heads": 0}),
    ]


def test_a_key_that_is_closed_and_a_head_that_is_stopped_are_written_down(ledger: Ledger, path: Path) -> None:
    known = KnownHeads()
    known.stop("old", "before the restart")
    auditor = Auditor(ledger, lambda: known.closures)
    known.stop("h", "a canary")
    known.close("too much noise")
    for _ in range(2):  # once each
        auditor.keep("classify_response", b"", [])
    known.replaced("key", None)
    auditor.keep("rotate_key", b"", [])
    known.close("too much noise")  # the next key, for the same reason
    auditor.keep("classify_response", b"", [])
    rows = [(row.event, row.facts) for row in read_log(path)]
    assert sorted(rows[:2], key=str) == [
        ("head stopped", {"head": "h", "reason": "a canary"}),
        ("key closed", {"reason": "too much noise"}),
    ]
    assert rows[2:] == [("key closed", {"reason": "too much noise"})]


def _ask(budgets: DurableBudgets, ids: DurableIds, text: str, images: int) -> None:
    """As the key holder does: counted and marked as used, or neither."""
    with budgets.together():
        ids.add(text)
        budgets.count("a", "h", images)


def test_a_group_is_durable_at_its_end_and_each_part_can_fail_alone(ledger: Ledger, path: Path) -> None:
    budgets, ids = DurableBudgets(ledger), DurableIds(ledger)
    budgets.admit("a", 5)
    with ledger.group():
        _ask(budgets, ids, "first", 2)
        with pytest.raises(BudgetError):
            _ask(budgets, ids, "second", 4)
        ledger.record(AuditEvent.DECISION, "a")
        assert [text in ids for text in ("first", "second")] == [True, False]
        with sqlite3.connect(path) as other:
            assert other.execute("SELECT count(*) FROM used_ids").fetchone() == (0,)
    assert (budgets.used("a", "h"), budgets.decided, len(ids)) == (2, 2, 1)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT images FROM decided").fetchall() == [(2,)]
        assert other.execute("SELECT count(*) FROM used_ids").fetchone() == (1,)
    assert [row.event for row in read_log(path)] == ["decision"]


@pytest.mark.parametrize("when", ["within", "at the end"])
def test_a_group_that_cannot_be_kept_leaves_nothing_of_any_part(when: str, ledger: Ledger, path: Path) -> None:
    budgets, ids = DurableBudgets(ledger), DurableIds(ledger)

    def lose() -> None:
        with ledger.group():
            _ask(budgets, ids, "first", 2)
            ledger.record(AuditEvent.DECISION, "a")
            ledger._connection.execute("ROLLBACK")  # as SQLite does where a disk is full
            for _ in range(2 if when == "within" else 0):
                with pytest.raises(ProtocolError):
                    ids.add("second")

    with pytest.raises(ProtocolError, match="the ledger cannot be written"):
        lose()
    assert (budgets.used("a", "h"), budgets.decided, len(ids), "first" in ids) == (0, 0, 0, False)
    ids.add("first")
    ledger.record(AuditEvent.DECISION, "a")
    assert len(read_log(path)) == 1
    assert verify(path).holds
