"""Sample records of every task, for tests of table and report: invented scores, real digits, measured as in a run."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from rhe_parties.metrics.claims import measure_claim, verdict
from rhe_parties.metrics.curves import claim_curves, claim_histograms
from rhe_parties.metrics.truth import GroundTruth, MeasuredClaim
from rhe_parties.model.head import LinearHead
from rhe_parties.report.record import (
    AttackRecord,
    CurveRecord,
    ExampleRecord,
    HistogramRecord,
    Record,
    ResultRecord,
    WorldRecord,
)
from rhe_parties.rng import numpy_stream
from tests.report_sample import attack, examples, sample_record
from tests.test_metrics import make_truth

HEADS = 60


def _heads() -> list[LinearHead]:
    rng = np.random.default_rng(5)
    return [LinearHead(rng.normal(size=(10, 6)).astype("f4"), np.zeros(10, "f4")) for _ in range(HEADS)]


@cache
def _truth() -> GroundTruth:
    rng = np.random.default_rng(6)
    base = make_truth(heads=HEADS)
    labels = np.repeat(np.arange(10), 12)
    return GroundTruth(
        base.images,
        base.features,
        base.labels,
        base.sets,
        10,
        members=np.tile(np.arange(20) < 10, (HEADS, 1)),
        property_index=rng.integers(0, 2, HEADS),
        property_values=np.array([0.1, 0.5]),
        inputs=rng.uniform(-1, 1, (HEADS, 20, 1, 4, 4)).astype("f4"),
        input_labels=np.tile(np.arange(20) % 4, (HEADS, 1)),
        agreement_features=rng.normal(size=(200, 6)).astype("f4"),
        public_images=rng.uniform(-1, 1, (len(labels), 1, 4, 4)).astype("f4"),
        public_labels=labels,
    )


def measured(cell: AttackRecord, truth: GroundTruth, arrays: dict[str, Any], queries: int = 0) -> AttackRecord:
    """The cell with results, curves and histograms of a claim."""
    named = {name: np.asarray(array, dtype=np.float32) for name, array in arrays.items()}
    claim = MeasuredClaim(named, np.full(HEADS, queries) if queries else np.empty(0, dtype=np.int64))
    results = measure_claim(claim, truth, _heads(), numpy_stream(0, "sample"))
    rows = [
        ResultRecord(
            statistic=r.statistic, value=r.value, low=r.low, high=r.high, n=r.n, heads=r.heads, chance=r.chance
        )
        for r in results
    ]
    return cell.model_copy(
        update={
            "results": rows,
            "outcome": verdict(results),
            "curves": [CurveRecord.of(c) for c in claim_curves(claim, truth, numpy_stream(0, "curves"))],
            "histograms": [HistogramRecord.of(h) for h in claim_histograms(claim, truth)],
            "seconds": 12.5,
        }
    )


def _record(task: str, plain: list[AttackRecord], hidden: list[AttackRecord], **parameters: Any) -> Record:
    """The sample's run with other attacks."""
    record = sample_record()
    none, rhe = record.worlds
    worlds: list[WorldRecord] = [
        none.model_copy(update={"attacks": [*plain]}),
        rhe.model_copy(update={"attacks": [*hidden]}),
    ]
    return record.model_copy(
        update={
            "scenario": task,
            "summary": f"An invented run of the task {task}.",
            "parameters": {**record.parameters, "task": task, **parameters},
            "worlds": worlds,
        }
    )


def _cell(
    name: str, variant: str = "as-is", summary: str = "", shown: list[ExampleRecord] | None = None
) -> AttackRecord:
    return attack(name, variant, "not-leaked", [], shown or [], summary)


def _noise(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


@cache
def reconstruction() -> Record:
    """Images rebuilt with curves, baselines and a null control."""
    truth = _truth()
    own = truth.images[truth.sets]
    blank = 0.5 * _noise(*own.shape, seed=9)
    images = {"images": own + 0.9 * _noise(*own.shape), "null.images": blank}
    summary = "features from the weights by algebra, then images by a decoder"
    plain = measured(_cell("span-inversion", summary=summary, shown=examples("blurred")), truth, images)
    nothing = {"images": 0.5 * _noise(*own.shape, seed=3), "null.images": blank}
    hidden = measured(_cell("span-inversion", "ciphertext", summary, examples("guess")), truth, nothing)
    blind = measured(_cell("prior-only", summary="knows the class and nothing else"), truth, {"images": 0 * own})
    return _record("reconstruction", [blind, plain], [blind, hidden])


@cache
def membership() -> Record:
    """Scores of candidates with their histograms."""
    truth = _truth()
    assert truth.members is not None
    signal = 2.2 * truth.members + _noise(HEADS, 20)
    plain = measured(
        _cell("lira", summary="likelihood ratio of shadow heads with and without the image"),
        truth,
        {"scores": signal, "null.scores": _noise(HEADS, 20, seed=2)},
    )
    hidden = measured(_cell("lira", "ciphertext"), truth, {"scores": _noise(HEADS, 20, seed=4)})
    blind = measured(_cell("prior-only", summary="knows the class and nothing else"), truth, {"scores": 0 * signal})
    return _record("membership", [blind, plain], [blind, hidden])


@cache
def private_property() -> Record:
    """A property of the training set."""
    truth = _truth()
    assert truth.property_index is not None
    signal = 2.0 * np.eye(2)[truth.property_index] + _noise(HEADS, 2)
    plain = measured(
        _cell("property-inference", summary="a classifier of heads, trained on shadow heads"),
        truth,
        {"property_scores": signal, "null.property_scores": _noise(HEADS, 2, seed=2)},
    )
    hidden = measured(_cell("property-inference", "ciphertext"), truth, {"property_scores": _noise(HEADS, 2, seed=5)})
    return _record("property", [plain], [hidden], property="class-share:0")


@cache
def informed() -> Record:
    """One unknown image per head, of changing class."""
    truth = _truth()
    targets = truth.sets[np.arange(HEADS), np.arange(HEADS) % 10][:, None]
    truth = GroundTruth(truth.images, truth.features, truth.labels, truth.sets, 10, targets=targets)
    own = truth.images[targets]
    plain = measured(
        _cell("informed-adversary", summary="knows all training images but one", shown=_single(examples("blurred"))),
        truth,
        {"images": own + 0.3 * _noise(*own.shape), "null.images": _noise(*own.shape, seed=2)},
    )
    hidden = measured(
        _cell("informed-adversary", "ciphertext", shown=_single(examples("guess"))),
        truth,
        {"images": _noise(*own.shape, seed=3)},
    )
    return _record("informed", [plain], [hidden])


def _single(shown: list[ExampleRecord]) -> list[ExampleRecord]:
    """Ten heads with one image each."""
    whole = shown[0]
    return [
        ExampleRecord(
            head_id=f"victim-{i:04d}",
            true=[whole.true[i]],
            claimed=[whole.claimed[i]],
            class_average=[whole.class_average[i]],
            classes=[str(i)],
        )
        for i in range(10)
    ]


@cache
def extraction() -> Record:
    """A classifier copied from its decisions."""
    truth = _truth()
    weights = np.stack([head.weight for head in _heads()])
    copy = {"weights": weights + 0.1 * _noise(*weights.shape), "null.weights": _noise(*weights.shape, seed=3)}
    plain = measured(_cell("hard-label", summary="asks for decisions only"), truth, copy, queries=28_411)
    # The client can ask under encryption as well: encryption does not hide decisions.
    return _record("reconstruction", [plain], [plain.model_copy(deep=True)])


@cache
def inversion() -> Record:
    """Inputs rebuilt from released scores."""
    truth = _truth()
    assert truth.inputs is not None
    claim = {"inputs": truth.inputs + 0.6 * _noise(*truth.inputs.shape), "null.inputs": _noise(*truth.inputs.shape)}
    shown = [
        e.model_copy(update={"subject": "inputs", "classes": [str(k) for k in range(10)]}) for e in examples("blurred")
    ]
    plain = measured(_cell("inversion-network", summary="a network from scores to images", shown=shown), truth, claim)
    blocked = attack("inversion-network", "as-is", "blocked", [], [], missing=["released scores"])
    return _record("inversion", [plain], [blocked])


TASKS = {
    "reconstruction": reconstruction,
    "membership": membership,
    "property": private_property,
    "informed": informed,
    "extraction": extraction,
    "inversion": inversion,
}
