"""The scenarios themselves, in a fast setting, over every transport: the same seed gives the same numbers."""

from __future__ import annotations

import base64
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import tenseal.sealapi as sealapi

from rhe_parties.data.datasets import ROOT_VARIABLE
from rhe_parties.report.record import AttackRecord, Record, WorldRecord, load_record
from rhe_parties.runner.scenario import load_scenario
from rhe_parties.threat.transcript import Transcript
from tests.key_spy import KeySpy, key_needles

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
FAST: dict[str, Any] = {
    "victims": 18,
    "threads": 1,  # tests run beside each other on few cores
    "evaluation_images": 4,
    "examples": 1,
    "auxiliary_images": 600,
    "span-inversion.decoder_steps": 60,
    "span-inversion.shadow_heads": 80,
    "span-inversion.refine_steps": 5,
    "span-inversion.ciphertext_shadows": 96,
}


def _run(name: str, out: Path, **more: Any) -> Record:
    given = FAST | more
    if "adversary" in more:  # options for a strategy that does not run are refused
        given = {key: value for key, value in given.items() if "." not in key}
    return load_scenario(SCENARIOS / f"{name}.py").run(out=out, quiet=True, **given)


def _world(record: Record, name: str) -> WorldRecord:
    return next(world for world in record.worlds if world.name == name)


def _cell(record: Record, world: str, adversary: str, variant: str = "as-is") -> AttackRecord:
    return next(c for c in _world(record, world).attacks if (c.adversary, c.variant) == (adversary, variant))


def _rate(cell: AttackRecord, statistic: str = "identification_rate") -> tuple[float, float, float, float]:
    result = next(r for r in cell.results if r.statistic == statistic)
    assert result.chance is not None
    return result.value, result.low, result.high, result.chance


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """One fast run on local parties, with the unencrypted twin as a third world."""
    return _run("quickstart", tmp_path_factory.mktemp("quick"), transport="local", worlds="none,rhe,rhe:plain")


def test_plain_head_gives_its_images_away(quickstart: Record) -> None:
    value, low, _, chance = _rate(_cell(quickstart, "none", "span-inversion"))
    assert value >= 0.95
    assert low > 10 * chance
    assert _cell(quickstart, "none", "span-inversion").outcome == "leaked"
    assert _cell(quickstart, "none", "head-readout").outcome == "leaked"
    assert _cell(quickstart, "none", "span-inversion", "ciphertext").outcome == "not-applicable"


def test_encrypted_head_does_not(quickstart: Record) -> None:
    blocked = _cell(quickstart, "rhe", "span-inversion")
    assert (blocked.outcome, blocked.missing) == ("blocked", ["plain head weights"])
    cell = _cell(quickstart, "rhe", "span-inversion", "ciphertext")
    value, low, high, chance = _rate(cell)
    assert cell.outcome == "not-leaked"
    assert low <= chance <= high
    assert value < 0.1


def test_the_same_code_reads_unencrypted_bytes(quickstart: Record) -> None:
    """The positive control of the ciphertext variant: without it the line above would prove nothing."""
    cell = _cell(quickstart, "rhe:plain", "span-inversion", "ciphertext")
    assert cell.outcome == "leaked"
    assert _rate(cell)[0] > 0.5


def test_baseline_is_at_chance_everywhere(quickstart: Record) -> None:
    for world in quickstart.worlds:
        _, low, high, chance = _rate(_cell(quickstart, world.name, "prior-only"))
        assert low <= chance <= high


def test_encryption_costs_no_decision(quickstart: Record) -> None:
    utility = {name: {u.statistic: u.value for u in _world(quickstart, name).utility} for name in ("none", "rhe")}
    assert utility["rhe"]["twin_agreement"] == 1.0
    assert utility["none"]["float_agreement"] == 1.0
    assert utility["rhe"]["float_agreement"] >= 0.97
    assert "twin_agreement" not in utility["none"]
    accuracy = _world(quickstart, "rhe").accuracy
    assert accuracy is not None
    assert accuracy > 0.5


def test_record_is_complete(quickstart: Record) -> None:
    assert quickstart.status == "ok"
    assert quickstart.seeds == {"root": 0}
    assert {"torch", "ray", "tenseal"} <= set(quickstart.versions)
    assert dict(quickstart.threat_model)["corrupted parties"] == "model-host"
    assert _world(quickstart, "rhe").plan
    assert _cell(quickstart, "rhe", "span-inversion").goal == "reconstruction", "blocked or not"
    assert all(m.total_bytes > 0 for w in quickstart.worlds for m in w.messages)
    assert quickstart.peak_memory_bytes
    example = _cell(quickstart, "none", "span-inversion").examples[0]
    assert len(example.true) == len(example.claimed) == len(example.class_average) == 10


def _numbers(record: Record) -> list[Any]:
    """Everything in a record that is a measurement and not a time, a size of a ciphertext or a hash of one."""
    return [
        (
            world.name,
            world.accuracy,
            [u.model_dump() for u in world.utility],
            [(m.kind, m.sender, m.recipient, m.count, m.seen_by_adversary) for m in world.messages],
            [cell.model_dump(exclude={"seconds"}) for cell in world.attacks],
        )
        for world in record.worlds
    ]


def test_same_numbers_on_ray_with_workers(ray_session: None, tmp_path: Path) -> None:
    effort = {"refine_steps": 0, "decoder_steps": 20, "shadow_heads": 120, "ciphertext_shadows": 64}
    little = {f"span-inversion.{name}": value for name, value in effort.items()} | {"victims": 6}
    local = _run("quickstart", tmp_path / "local", transport="local", **little)
    other = _run("quickstart", tmp_path / "ray", transport="ray", workers=2, **little)
    assert _numbers(other) == _numbers(local)
    assert other.transcript_messages == local.transcript_messages


def test_another_seed_gives_other_numbers(tmp_path: Path, quickstart: Record) -> None:
    other = _run("quickstart", tmp_path, transport="local", seed=1, adversary="head-readout")
    assert _world(other, "none").utility != _world(quickstart, "none").utility


def test_white_box_on_images_of_ones_own(tmp_path: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index in range(700):
        folder = tmp_path / "images" / f"digit{digits.target[index]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[index] * 15.9).astype("uint8")).resize((32, 32)).save(folder / f"{index}.png")
    record = _run(
        "white_box", tmp_path / "out", dataset=f"imagefolder:{tmp_path / 'images'}", transport="local",
        worlds="none,rhe", victims=10, images_per_class=2,
    )  # fmt: skip
    assert record.status == "ok"
    value, low, _, chance = _rate(_cell(record, "none", "span-inversion"))
    assert low > chance
    assert record.dataset["images_per_head"] == 20
    assert value < 1.0  # two images of a class share one row of weights


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(os.environ.get(ROOT_VARIABLE, "/nonexistent")) / "MNIST").is_dir(),
    reason=f"MNIST is looked for below ${ROOT_VARIABLE}, which is not set or holds none",
)
def test_white_box_on_mnist(tmp_path: Path) -> None:
    record = _run("white_box", tmp_path, transport="local", worlds="none,rhe", auxiliary_images=3000, victims=24)
    value, low, _, chance = _rate(_cell(record, "none", "span-inversion"))
    assert chance < 0.0013  # about a thousand candidates per class
    assert value >= 0.9
    assert low > 100 * chance
    _, low, high, chance = _rate(_cell(record, "rhe", "span-inversion", "ciphertext"))
    assert low <= chance <= high


def test_files_of_a_run_can_be_read_again(tmp_path: Path) -> None:
    record = _run("quickstart", tmp_path, transport="local", victims=3, adversary="head-readout")
    assert load_record(tmp_path) == record
    assert len(Transcript.load(tmp_path / "transcript.binpb")) == record.transcript_messages


@pytest.mark.parametrize("corrupted", ["key-holder", "data-owner,model-host"])
def test_baseline_runs_whoever_is_corrupted(corrupted: str, tmp_path: Path) -> None:
    record = _run("quickstart", tmp_path, transport="local", victims=3, adversary="head-readout", corrupted=corrupted)
    for world in ("none", "rhe"):
        assert _cell(record, world, "prior-only").outcome == "not-leaked"
    seen = "model-host" in corrupted
    assert _cell(record, "none", "head-readout").outcome == ("leaked" if seen else "blocked")
    assert dict(record.threat_model)["corrupted parties"] == ", ".join(corrupted.split(","))


def test_secret_key_is_in_no_file_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    KeySpy.seen.clear()
    monkeypatch.setattr(sealapi, "KeyGenerator", KeySpy)
    caplog.set_level(logging.DEBUG)
    record = _run("quickstart", tmp_path, transport="local", victims=3, adversary="head-readout")
    (secret,) = KeySpy.seen
    needles = key_needles(secret, 2048)
    assert dict(_world(record, "rhe").plan)["ring"].startswith("N=2048")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(files) == {"record.json", "report.html", "transcript.binpb"}
    files["log"] = caplog.text.encode()
    for name, data in files.items():
        for needle in needles:
            forms = (needle, needle.hex().encode(), base64.b64encode(needle[: len(needle) // 3 * 3]))
            assert not any(form in data for form in forms), name


def test_scenarios_are_short() -> None:
    for path in SCENARIOS.glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) < (100 if "Campaign(" in text else 60), path


@pytest.mark.slow
def test_every_evaluator_and_layout_gives_the_same_decisions(tmp_path: Path) -> None:
    """Who multiplies, how many inputs share a ciphertext and whether requests are gathered changes no statistic."""
    more = {"adversary": ["prior-only"], "worlds": ["none", "rhe"], "transport": "local"}
    settings: list[dict[str, Any]] = [
        {"evaluator": "seal"},
        {"evaluator": "torch"},
        {"evaluator": "jit"},
        {"batch": 4, "gather_delay_ms": 2.0, "release": "logits"},
    ]
    records = [_run("quickstart", tmp_path / str(i), **more, **given) for i, given in enumerate(settings)]
    worlds = [_world(record, "rhe") for record in records]
    assert all(world.utility == worlds[0].utility for world in worlds[:3])
    twin = [next(r for r in world.utility if r.statistic == "twin_agreement").value for world in worlds]
    assert twin == [1.0] * 4
    accuracy = {world.accuracy for world in worlds[:3]}
    assert len(accuracy) == 1
    replies = [next(m for m in world.messages if m.kind == "classify_response").total_bytes for world in worlds]
    assert replies[3] < 0.5 * replies[2]
