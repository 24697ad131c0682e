"""The adversary as a client of the key holder: what it may ask, who counts, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rhe_parties.errors import FailureCode, ParameterError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.messages import Envelope
from rhe_parties.messages.payloads import AdmitClient, AskDecisions, ClientAdmitted, Decision, Elided, Failure
from rhe_parties.metrics.cost import message_costs
from rhe_parties.report.record import AttackRecord, Record
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.scenario import Scenario
from rhe_parties.runner.world import resolve_worlds
from rhe_parties.threat.model import ADVERSARY, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.threat.transcript import Transcript
from rhe_parties.transport import Switchboard
from rhe_parties.transport.local import LocalTransport
from tests.laboratory import TIMEOUT, play, seat_adversary, small_laboratory

STRATEGY = str(Path(__file__).parent / "asking_strategy.py") + ":Asking"
SMALL = {"victims": 2, "evaluation_images": 2, "transport": "local", "adversary": STRATEGY}


def run(tmp_path: Path, **given: object) -> Record:
    return Scenario("small", "").run(out=tmp_path, quiet=True, **(SMALL | given))


def cell(record: Record, world: str) -> AttackRecord:
    (found,) = [w for w in record.worlds if w.name == world]
    (attack,) = [a for a in found.attacks if a.adversary == STRATEGY]
    return attack


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    folder = tmp_path_factory.mktemp("run")
    options = {"Asking.overdraw": True, "client_budget": 100}
    worlds = "none,none+client,rhe+client,rhe+client+release=logits"
    return run(folder, worlds=worlds, **options), folder


def test_one_way_topology_answers_nobody_else(recorded: tuple[Record, Path]) -> None:
    attack = cell(recorded[0], "none")
    assert attack.outcome == "blocked"
    assert attack.missing == ["answers to images of its own choice"]


def test_answers_are_those_of_the_head_in_every_world(recorded: tuple[Record, Path]) -> None:
    lab = small_laboratory("none,rhe")
    features = lab.backbone.extract(lab.dataset.images[lab.auxiliary][:60])
    for world in ("none+client", "rhe+client", "rhe+client+release=logits"):
        notes = cell(recorded[0], world).notes
        for index, head in enumerate(lab.heads(lab.worlds[0])):
            said = notes[f"victim-{index:04d} 0"].split() + notes[f"victim-{index:04d} 1"].split()
            logits = head.logits(features)
            top = np.sort(logits, axis=1)
            clear = top[:, -1] - top[:, -2] > 0.01 * np.abs(logits).max()
            np.testing.assert_array_equal(np.array(said, int)[clear], logits.argmax(axis=1)[clear])
            assert clear.mean() > 0.8


def test_release_policy_holds_for_clients(recorded: tuple[Record, Path]) -> None:
    assert cell(recorded[0], "rhe+client").notes["victim-0000 0 logits"] == "(0,)"
    scores = cell(recorded[0], "rhe+client+release=logits").notes
    assert scores["victim-0000 0 logits"] == "(30, 10)"
    assert scores["release"] == "logits"


def test_key_holder_counts_and_refuses_beyond_the_budget(recorded: tuple[Record, Path]) -> None:
    notes = cell(recorded[0], "none+client").notes
    assert notes["budget"] == "100"
    for head in ("victim-0000", "victim-0001"):
        assert notes[f"{head} used"] == "60"
        assert "40 of 100 are left" in notes[f"{head} refused"]


def test_questions_are_recorded_without_their_bodies(recorded: tuple[Record, Path]) -> None:
    transcript = Transcript.load(recorded[1] / "transcript.binpb")
    entries = transcript.world("rhe+client")
    elided = [e.envelope.payload for e in entries if isinstance(e.envelope.payload, Elided)]
    kinds = [payload.kind for payload in elided]
    assert [kinds.count(k) for k in ("ask_decisions", "classify_request", "classify_response", "decision")] == [4] * 4
    assert all(payload.size > 100 and len(payload.sha256) == 32 for payload in elided)
    costs = {(c.kind, c.sender): c for c in message_costs(entries)}
    assert costs["ask_decisions", ADVERSARY].total_bytes > 4 * 30 * 1024
    # The bodies of the laboratory's own questions are all there.
    assert sum(isinstance(e.envelope.payload, Decision) for e in entries) == 2


def test_strategy_that_fails_in_the_middle_costs_its_own_cell_alone(tmp_path: Path) -> None:
    record = run(tmp_path, worlds="none+client,rhe+client", **{"Asking.fail": True})
    assert [cell(record, w.name).outcome for w in record.worlds] == ["error", "error"]
    assert "gave up in the middle" in cell(record, "none+client").error
    assert record.status == "ok"


def test_strangers_are_no_clients() -> None:
    lab = small_laboratory()
    with LocalTransport() as transport:
        seat_adversary(lab, transport)
        transcript, _ = play(lab, transport)
        board = Switchboard(transport, transcript, lab.run_id, "none", TIMEOUT)
        images = lab.dataset.images[:1]

        def ask(sender: str, name: str, payload: object) -> object:
            key_holder = transport._parties[KEY_HOLDER]
            return key_holder.handle(Envelope(lab.run_id, sender, KEY_HOLDER, 900, 0, payload))[-1].payload

        refused = ask(ADVERSARY, "a", AskDecisions("a", lab.head_id(0), images))
        assert isinstance(refused, Failure)
        assert refused.code == FailureCode.REFUSED
        assert isinstance(ask(MODEL_HOST, "b", AdmitClient(MODEL_HOST, 0)), Failure)
        admitted = board.ask(KEY_HOLDER, AdmitClient(ADVERSARY, 1), ClientAdmitted)
        assert admitted == ClientAdmitted(ADVERSARY, 1, "classes")
        spent = ask(ADVERSARY, "c", AskDecisions("c", lab.head_id(0), lab.dataset.images[:2]))
        assert isinstance(spent, Failure)
        assert spent.code == FailureCode.BUDGET
        assert "0 of 1 images" in spent.text


def test_budgets_are_kept_per_head_and_not_spent_by_refusals() -> None:
    lab = small_laboratory()
    with LocalTransport() as transport:
        seat_adversary(lab, transport)
        transcript, _ = play(lab, transport)
        Switchboard(transport, transcript, lab.run_id, "none", TIMEOUT).ask(
            KEY_HOLDER, AdmitClient(ADVERSARY, 3), ClientAdmitted
        )
        key_holder, host = transport._parties[KEY_HOLDER], transport._parties[MODEL_HOST]
        counts = []
        for number, (head, images) in enumerate(((0, 2), (0, 2), (1, 3), (0, 1), (0, 1))):
            ask = AskDecisions(f"q{number}", lab.head_id(head), lab.dataset.images[:images])
            (first,) = key_holder.handle(Envelope(lab.run_id, ADVERSARY, KEY_HOLDER, 50 + number, 0, ask))
            if isinstance(first.payload, Failure):
                counts.append(-1)
                continue
            (response,) = host.handle(first)
            (decision,) = key_holder.handle(response)
            assert decision.recipient == ADVERSARY
            assert isinstance(decision.payload, Decision)
            counts.append(decision.payload.used)
        assert counts == [2, -1, 3, 3, -1]


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ("rhe+clients", "client"),
        ("rhe+release=all", "release='all'"),
        ("rhe+", "addition"),
        ("none:bfv+client", "scheme"),
        ("rhe:", "no scheme after the colon"),
        ("rhe:bfw", "bfw"),
        ("none+rounding@digts=2", "'digts'"),
        ("none+rounding@digits=two", "no int"),
        ("none+rounding@digits=7", "0 to 6"),
        ("none+rounding@digits", "no option"),
        ("dp-sgd@epsilon=5@epsilon=8", "given twice"),
        ("dp-sgd@epsilon=-1", "above 0"),
        ("relaxloss@alpha=0", "above 0"),
        ("init-noise@std=-1", "at least 0"),
        ("none+temperature@value=0", "above 0"),
    ],
)
def test_unknown_addition_to_a_world(world: str, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        resolve_worlds(resolve_parameters({"worlds": ("none", world)}))


def test_laboratory_sees_the_decisions_that_a_world_leaks() -> None:
    (world, other) = resolve_worlds(
        resolve_parameters({"worlds": "rhe+decisions+release=logits+rounding@digits=2,rhe"})
    )
    lab = small_laboratory()
    assert world.threat_model(lab.threat_model).exposes(KEY_HOLDER, LABORATORY)
    assert not other.threat_model(lab.threat_model).exposes(KEY_HOLDER, LABORATORY)
    assert (world.release, world.scheme) == ("logits", "bfv")
    assert [applied.text for applied in world.defences] == ["rhe", "rounding@digits=2"]
    assert "released scores are rounded" in world.describe(lab.parameters)
    plan = [w.plan for w in small_laboratory("none,rhe+client").worlds]
    assert plan[0] is None
    assert isinstance(plan[1], HeadPlan)
