"""The walls of the design: each test fails when its wall is broken."""

from __future__ import annotations

import ast
import copy
import functools
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tenseal.sealapi as sealapi

import rhe_parties
from rhe_parties.attacks.base import ADVERSARIES
from rhe_parties.messages import Envelope, decode, encode
from rhe_parties.messages.payloads import AttackRequest, ClaimReport, Decision, PlainHead
from rhe_parties.threat.model import ADVERSARY, DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST, ThreatModel
from rhe_parties.threat.transcript import Transcript, TranscriptEntry
from rhe_parties.threat.view import AdversaryView, Observation, build_view
from rhe_parties.transport.local import LocalTransport
from tests.key_spy import KeySpy, key_needles
from tests.laboratory import play, seat_adversary, small_laboratory

PACKAGE = Path(rhe_parties.__file__).parent

# A module may import from its own row and from rows above it.
ROWS = [
    {"errors", "types", "rng", "threads", "jit_cache", "proto"},
    {"registry"},
    {"data"},
    {"model"},
    {"he"},
    {"messages"},
    {"defences"},
    {"threat"},
    {"attacks"},
    {"metrics"},
    {"report"},
    {"parties"},
    {"transport"},
    {"service"},
    {"runner"},
    {"sweep"},
    {"testing"},
    {"bench"},
    {"cli"},
    {"__init__"},
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}

GRPC = {
    str(path.relative_to(PACKAGE))
    for folder in ("transport", "service")
    for path in (PACKAGE / folder).glob("grpc_*.py")
}


def _files() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if "_pb2" not in path.name]


@functools.cache
def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def _row(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_go_one_way() -> None:
    wrong = []
    for path in _files():
        for module in _imports(path):
            parts = module.split(".")
            if parts[0] == "rhe_parties" and len(parts) > 1 and RANK[parts[1]] > RANK[_row(path)]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert not wrong


def test_every_folder_has_a_row() -> None:
    assert {_row(path) for path in _files()} <= set(RANK)


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("ray", {f"transport/ray_{part}.py" for part in ("actors", "cluster", "jobs", "tasks")}),
        ("grpc", GRPC),
        ("grpc_health", GRPC),
        (
            "tenseal",
            {
                "bench/cases.py",
                "he/bfv.py",
                "he/ckks.py",
                "he/found_key.py",
                "he/levelled.py",
                "he/opening.py",
                "he/seal_evaluator.py",
                "he/sealed.py",
                "he/sealio.py",
            },
        ),
        ("cryptography", {f"service/{part}.py" for part in ("authority", "certificates", "identity")}),
        ("pyrage", {"he/sealed.py", "service/vault.py"}),
        ("pickle", set()),
        ("cloudpickle", set()),
    ],
)
def test_libraries_stay_in_their_files(library: str, allowed: set[str]) -> None:
    users = {
        str(path.relative_to(PACKAGE)) for path in _files() if any(m.split(".")[0] == library for m in _imports(path))
    }
    assert users <= allowed


def test_secret_keys_are_named_where_they_are_made_and_sealed_alone() -> None:
    """Everybody else has a custody, which shows none."""
    schemes = {f"he/{name}.py" for name in ("bfv", "ckks", "levelled")}
    allowed = {
        "secret_key": schemes,
        "fresh_keys": schemes | {"he/plain.py", "he/scheme.py", "he/sealed.py"},
        "custody_of": schemes | {"he/plain.py", "he/scheme.py", "he/sealed.py"},
        "sealed_custody": {"he/sealed.py", "service/vault.py"},
    }
    found: dict[str, set[str]] = {name: set() for name in allowed}
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", getattr(node, "name", ""))
            if name in found:
                found[name].add(str(path.relative_to(PACKAGE)))
    assert found == allowed


def test_generated_code_is_imported_by_messages_alone() -> None:
    users = {_row(path) for path in _files() if any("_pb2" in m or m == "rhe_parties.proto" for m in _imports(path))}
    assert users <= {"messages", "proto"}


def test_ground_truth_reaches_no_strategy_and_no_party() -> None:
    for folder in ("attacks", "parties", "threat", "defences"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert not [m for m in _imports(path) if m.startswith(("rhe_parties.metrics", "rhe_parties.runner"))], path


def test_parties_work_without_ray_and_grpc() -> None:
    code = (
        "import sys; sys.modules['ray'] = None; sys.modules['grpc'] = None\n"
        "from tests.laboratory import play, small_laboratory\n"
        "from rhe_parties.transport.local import LocalTransport\n"
        "print(len(play(small_laboratory(), LocalTransport(), 1)[1]))"
    )
    assert _in_a_fresh_process(code) == "2"


def _in_a_fresh_process(code: str) -> str:
    """What the code prints; what it complains of is shown when it fails."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_secret_key_bytes_are_found_nowhere(
    scheme: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    KeySpy.seen.clear()
    monkeypatch.setattr(sealapi, "KeyGenerator", KeySpy)
    caplog.set_level(logging.DEBUG)
    lab = small_laboratory(scheme=scheme)
    transport = LocalTransport()
    transcript, _ = play(lab, transport, 1)
    (secret,) = KeySpy.seen
    plan = lab.worlds[1].plan
    assert plan is not None
    needles = key_needles(secret, plan.degree)
    transcript.save(tmp_path / "transcript.binpb")
    places = {
        "transcript": b"".join(entry.data for entry in transcript),
        "transcript file": (tmp_path / "transcript.binpb").read_bytes(),
        "log": caplog.text.encode(),
        "repr of the key holder": repr(transport._parties[KEY_HOLDER]).encode(),
    }
    for name in (DATA_OWNER, MODEL_HOST):
        state = {
            k: v for k, v in vars(transport._parties[name]).items() if not k.startswith(("_handlers", "_backbone"))
        }
        places[f"pickle of {name}"] = b"".join(_pickled(value) for value in state.values())
    assert len(places["transcript"]) > 10_000
    for place, data in places.items():
        assert not any(needle in data for needle in needles), place


def _pickled(value: object) -> bytes:
    try:
        return pickle.dumps(value)
    except TypeError:  # SEAL objects: public material, searched in its serialised form in the transcript
        return repr(value).encode()


def test_key_holder_cannot_be_pickled_or_copied() -> None:
    transport = LocalTransport()
    play(small_laboratory(), transport, 1)
    holder = transport._parties[KEY_HOLDER]
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="secret key"):
            attempt(holder)


def test_view_holds_exactly_what_the_threat_model_exposes() -> None:
    transcript, _ = play(small_laboratory(), LocalTransport(), 1)
    for corrupted in ((MODEL_HOST,), (DATA_OWNER,), (KEY_HOLDER,), ()):
        model = ThreatModel(corrupted=corrupted)
        view = build_view(transcript, model)
        expected = [e.data for e in transcript if {e.envelope.sender, e.envelope.recipient} & set(corrupted)]
        assert list(view.data) == expected
    tapped = build_view(transcript, ThreatModel(corrupted=(), tapped_links=((KEY_HOLDER, LABORATORY),)))
    assert {type(e.payload) for e in tapped.envelopes} == {Decision}
    host = build_view(transcript, ThreatModel())
    assert host.holds() == {
        Observation.ENCRYPTED_HEAD,
        Observation.PUBLIC_KEY,
        Observation.QUERIES,
        Observation.REPLIES,
    }
    assert not host.of_kind(Decision)


def test_blocked_is_decided_from_the_content_of_the_view() -> None:
    lab = small_laboratory()
    transport = LocalTransport()
    seat_adversary(lab, transport)
    plain = build_view(play(lab, transport, 0)[0], lab.threat_model)
    encrypted = build_view(play(lab, transport, 1)[0], lab.threat_model)
    # The name of the world says the opposite of what the view holds.
    assert _attack(lab, transport, "rhe", plain).outcome == "claim"
    report = _attack(lab, transport, "none", encrypted)
    assert (report.outcome, report.missing) == ("blocked", (str(Observation.PLAIN_HEAD),))
    assert _attack(lab, transport, "none", AdversaryView(())).outcome == "blocked"


def _attack(lab: Any, transport: LocalTransport, world: str, view: AdversaryView) -> ClaimReport:
    request = AttackRequest(world, "head-readout", "", "as-is", (), (), 0, view.data, ())
    (reply,) = transport.deliver(ADVERSARY, encode(Envelope(lab.run_id, LABORATORY, ADVERSARY, 1, 0, request)), 60)
    payload = decode(reply).payload
    assert isinstance(payload, ClaimReport)
    return payload


def test_a_leak_into_the_view_would_be_seen() -> None:
    """The test of the test: a plain head on a link that the host sees is found by the same search."""
    lab = small_laboratory()
    transcript, _ = play(lab, LocalTransport(), 1)
    head = lab.heads(lab.worlds[0])[0]
    leak = PlainHead("victim-0000", head.weight, head.bias, "f")
    leaky = Transcript()
    for entry in transcript:
        leaky.append(entry)
    leaky.append(TranscriptEntry("rhe", encode(Envelope(lab.run_id, DATA_OWNER, MODEL_HOST, 99, 0, leak)), 0.0))
    assert Observation.PLAIN_HEAD in build_view(leaky, lab.threat_model).holds()


def test_every_strategy_states_its_needs_in_words_of_the_view() -> None:
    for name in ADVERSARIES.names():
        cls = ADVERSARIES.load(name)
        assert all(isinstance(need, Observation) for need in cls.needs | cls.ciphertext_needs)


@pytest.mark.parametrize("shell", ["ray_actors", "grpc_seat"])
def test_the_key_holders_process_loads_no_torch(shell: str) -> None:
    code = (
        "import sys\n"
        f"import rhe_parties.transport.{shell}\n"
        "from rhe_parties.he.planner import plan_head\n"
        "from rhe_parties.messages.setups import KeyHolderSetup, encode_setup\n"
        "from rhe_parties.parties import build_party\n"
        "party = build_party(encode_setup('r', KeyHolderSetup(plan_head(256, 10), 0)))\n"
        "print(party.name, 'torch' in sys.modules)"
    )
    assert _in_a_fresh_process(code) == "key-holder False"


def test_a_seats_process_loads_nothing_heavy_before_it_knows_its_party() -> None:
    code = "import sys, rhe_parties.transport.grpc_seat\nprint(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(_in_a_fresh_process(code).split())
    assert "grpc" in loaded
    assert not loaded & {"torch", "torchvision", "ray", "tenseal", "sklearn", "scipy", "numba", "opacus", "matplotlib"}
