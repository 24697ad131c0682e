"""A realistic record for tests of table and report: real digits, blurred copies of them, invented rates."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom
from sklearn.datasets import load_digits

from rhe_parties.report.record import (
    AttackRecord,
    CurveRecord,
    ExampleRecord,
    HistogramRecord,
    MessageRecord,
    Record,
    ResultRecord,
    WorldRecord,
)
from rhe_parties.rng import numpy_stream

HEADS = 58
HOSTILE = "<script>alert(1)</script>[bold]\x1b[31m\"'>&"


def sample_record() -> Record:
    """A finished quickstart: worlds none and rhe, three strategies, ciphertext variants, two heads."""
    return Record(
        status="ok",
        scenario="quickstart",
        summary="Few-shot heads on handwritten digits, with and without encryption, white-box host.",
        command="rhe run scenarios/quickstart.py -p heads=58 --out runs/quickstart",
        parameters={
            "dataset": "digits",
            "images_per_class": 1,
            "heads": HEADS,
            "scheme": "bfv",
            "epochs": 32,
        },
        parameters_given={"heads": HEADS},
        started="2026-11-21T02:42:34+00:00",
        seconds=71.4,
        seeds={"root": 7},
        versions={"rhe_parties": "0.1.0", "python": "3.12.3", "torch": "2.9.1", "tenseal": "0.3.16"},
        machine={"cpu": "x86_64, 2 cores", "memory": "23 GiB", "transport": "ray, 4 actors"},
        dataset={
            "name": "digits",
            "classes": [str(digit) for digit in range(10)],
            "private_images": 596,
            "auxiliary_images": 810,
            "evaluation_images": 200,
            "images_per_class": 1,
            "candidates_per_class": [58, 61],
        },
        backbone={"name": "strokenet", "features": 256, "fingerprint": "9f2c61d0aa37" * 5 + "beef"},
        threat_model=[
            ("corrupted parties", "model-host"),
            ("tapped links", "none"),
            ("behaviour", "honest but curious (passive)"),
            ("query budget", "no limit"),
            ("decisions", "classes, to the party that asked; never to the host"),
            (
                "adversary knows beforehand",
                "the public backbone and its weights, the head's training recipe, "
                "labelled images of the same kind, none of them private",
            ),
        ],
        corrupted=["model-host"],
        worlds=[_world_none(), _world_rhe()],
        stages=[("data and backbone", 2.1), ("world none", 31.0), ("world rhe", 36.4), ("measuring", 1.9)],
        peak_memory_bytes=1_834_000_000,
        transcript_sha256="3b0c" * 16,
        transcript_messages=1638,
    )


def rate(name: str, value: float, low: float, high: float, chance: float | None, n: int = 580) -> ResultRecord:
    """A result over the sample's heads."""
    return ResultRecord(statistic=name, value=value, low=low, high=high, n=n, heads=HEADS, chance=chance)


def message(kind: str, sender: str, recipient: str, count: int, each: int, seconds: float = 0.01) -> MessageRecord:
    """Messages of one kind; the sample's adversary sits at the model host."""
    seen = "model-host" in (sender, recipient)
    return MessageRecord(
        kind=kind, sender=sender, recipient=recipient, count=count, total_bytes=count * each,
        handled_seconds=seconds, seen_by_adversary=seen,
    )  # fmt: skip


def _utility(accuracy: float, exact: bool) -> list[ResultRecord]:
    n = HEADS * 200
    rows = [rate("accuracy", accuracy, accuracy - 0.012, accuracy + 0.011, 0.1, n)]
    rows.append(rate("float_agreement", 0.9997 if exact else 1.0, 0.999, 1.0, None, n))
    return [*rows, rate("twin_agreement", 1.0, 0.9997, 1.0, None, n)] if exact else rows


def _messages(encrypted: bool) -> list[MessageRecord]:
    lab, owner, holder, host = "laboratory", "data-owner", "key-holder", "model-host"
    keys = [
        message("public_material_request", owner, holder, 1, 61),
        message("public_material", holder, owner, 1, 31_552),
        message("encrypted_head", owner, host, HEADS, 62_311),
        message("public_material_request", host, holder, 1, 61),
        message("public_material", holder, host, 1, 31_552),
    ]
    reply = 6_182_000 if encrypted else 8_211
    return [
        message("train_head", lab, owner, HEADS, 66, 2.4),
        *(keys if encrypted else [message("plain_head", owner, host, HEADS, 10_412)]),
        message("head_installed", host, owner, HEADS, 139),
        message("head_notice", owner, holder, HEADS, 151),
        message("head_ready", holder, owner, HEADS, 63),
        message("head_ready", owner, lab, HEADS, 63),
        message("ask_decisions", lab, holder, HEADS, 205_012, 0.4),
        message("classify_request", holder, host, HEADS, 205_012, 6.1),
        message("classify_response", host, holder, HEADS, reply, 0.9),
        message("decision", holder, lab, HEADS, 1_702),
    ]


def _prior_only() -> AttackRecord:
    nothing = [
        rate("identification_rate", 0.019, 0.0094, 0.0337, 0.0172),
        rate("tpr_at_fpr_1pct", 0.0103, 0.0038, 0.0224, 0.01),
        rate("mse", 0.402, 0.388, 0.415, 0.403),
    ]
    return attack("prior-only", "as-is", "not-leaked", nothing, examples("average"), "knows the class and nothing else")


def _world_none() -> WorldRecord:
    stolen = [
        rate("identification_rate", 0.9983, 0.989, 1.0, 0.0172),
        rate("tpr_at_fpr_1pct", 0.712, 0.661, 0.759, 0.01),
        rate("mse", 0.0951, 0.0902, 0.1003, 0.386),
    ]
    return WorldRecord(
        name="none",
        defence="none",
        summary="the head's weights are handed to the host in the clear",
        scheme="plain",
        accuracy=0.781,
        utility=_utility(0.781, exact=False),
        messages=_messages(encrypted=False),
        seconds=31.0,
        attacks=[
            _prior_only(),
            attack(
                "head-readout", "as-is", "leaked", [rate("head_cosine", 1.0, 1.0, 1.0, 0.312, HEADS)], [],
                "reads the head's weights off the host's memory",
            ),
            attack(
                "span-inversion", "as-is", "leaked", stolen, examples("blurred"),
                "features from the weights by algebra, then images by a decoder trained on auxiliary data",
            ),
        ],
    )  # fmt: skip


def _world_rhe() -> WorldRecord:
    nothing = [
        rate("identification_rate", 0.0207, 0.0107, 0.0359, 0.0172),
        rate("tpr_at_fpr_1pct", 0.0121, 0.0048, 0.0247, 0.01),
        rate("mse", 0.407, 0.391, 0.422, 0.406),
    ]
    blocked = {"missing": ["plain head weights"]}
    return WorldRecord(
        name="rhe",
        defence="rhe",
        summary="the weights are encrypted under the key holder's key; the host computes encrypted logits",
        scheme="bfv",
        accuracy=0.7809,
        utility=_utility(0.7809, exact=True),
        saturated_inputs=3,
        plan=[
            ("scheme", "bfv"),
            ("ring", "N=2048, q 54 bits [54]"),
            ("weight precision", "8 bits"),
            ("layout", "w=204, c=10, b=1"),
            ("noise margin", "6.2 bits"),
            ("reply", "31.4 kB"),
        ],
        messages=_messages(encrypted=True),
        seconds=36.4,
        attacks=[
            _prior_only(),
            attack("head-readout", "as-is", "blocked", [], [], **blocked),
            attack("span-inversion", "as-is", "blocked", [], [], **blocked),
            attack("span-inversion", "ciphertext", "not-leaked", nothing, examples("guess")),
        ],
    )


def attack(
    adversary: str,
    variant: Any,
    outcome: Any,
    results: list[ResultRecord],
    shown: list[ExampleRecord],
    summary: str = "",
    **more: Any,
) -> AttackRecord:
    """One attack of the sample."""
    notes = {"decoder": "trained on 719 auxiliary images, 240 s"} if shown else {}
    return AttackRecord(
        adversary=adversary, variant=variant, outcome=outcome, results=results, examples=shown,
        summary=summary, notes=notes, seconds=4.2 if results else 0.0, **more,
    )  # fmt: skip


def examples(kind: str) -> list[ExampleRecord]:
    """Two victim heads with one digit per class; `kind`: blurred copies, averages, or guesses."""
    data = load_digits()
    generator = numpy_stream(7, "report-sample")
    averages = [data.images[data.target == k].mean(axis=0) for k in range(10)]
    found = []
    for head in range(2):
        picks = [int(generator.choice(np.flatnonzero(data.target == k))) for k in range(10)]
        true = [data.images[i] for i in picks]
        claimed = {
            "blurred": [gaussian_filter(image, 0.45) for image in true],
            "average": averages,
            "guess": [0.7 * mean + 4 * gaussian_filter(generator.random((8, 8)), 0.8) for mean in averages],
        }[kind]
        found.append(
            ExampleRecord(
                head_id=f"victim-{head:04d}",
                true=[png(image) for image in true],
                claimed=[png(image) for image in claimed],
                class_average=[png(image) for image in averages],
            )
        )
    return found


def png(image: Any) -> str:
    """An 8x8 image with values from 0 to 16 as a 32x32 PNG data URI."""
    large = np.clip(zoom(image, 4, order=1) * 16, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def blocked_only() -> Record:
    """One world in which nothing could start."""
    cell = attack("span-inversion", "as-is", "blocked", [], [], missing=["plain head weights"])
    world = WorldRecord(name="rhe", defence="rhe", attacks=[cell])
    return Record(status="ok", scenario="s", corrupted=["model-host"], worlds=[world])


def failed() -> Record:
    """A run that ended with a dead party in its second world."""
    record = sample_record()
    broken = WorldRecord(name="rhe", defence="rhe", status="error", error="model-host died")
    update = {"status": "error", "error": "model-host died after 3.1 s", "worlds": [record.worlds[0], broken]}
    return record.model_copy(update=update)


def hostile() -> Record:
    """Markup, terminal escapes and foreign addresses wherever a record takes text."""
    uri = "https://example.com/x.png"
    shown = [ExampleRecord(head_id=HOSTILE, true=[uri], claimed=["javascript:alert(1)"], class_average=[HOSTILE])]
    cell = attack(HOSTILE, "as-is", "leaked", [rate("identification_rate", 0.5, 0.4, 0.6, 0.1)], shown, HOSTILE)
    curves = [
        CurveRecord(name=name, fpr=[0.1, 1.0], tpr=[0.5, 1.0], low=[0.4, 1.0], high=[0.6, 1.0])
        for name in ("roc", "np_roc", f"np_roc_class_{HOSTILE}", HOSTILE)
    ]
    scores = HistogramRecord(name="membership", edges=[0.0, 1.0], positives=[1.0], negatives=[1.0])
    update = {"notes": {HOSTILE: HOSTILE}, "curves": curves, "histograms": [scores]}
    cell = cell.model_copy(update=update)
    broken = attack(HOSTILE, "as-is", "error", [rate(HOSTILE, math.nan, math.inf, math.nan, math.nan)], [])
    lost = attack("x", "as-is", "blocked", [], [], missing=[HOSTILE])
    world = WorldRecord(
        name=HOSTILE, defence=HOSTILE, summary=HOSTILE, scheme=HOSTILE, plan=[(HOSTILE, HOSTILE)],
        messages=[message(HOSTILE, HOSTILE, "model-host", 0, 0)],
        attacks=[cell, broken.model_copy(update={"error": HOSTILE}), lost],
    )  # fmt: skip
    return Record(
        status="ok", scenario=HOSTILE, summary=HOSTILE, command=HOSTILE, parameters={HOSTILE: HOSTILE},
        threat_model=[(HOSTILE, HOSTILE)], corrupted=[HOSTILE], worlds=[world], stages=[(HOSTILE, math.nan)],
        versions={HOSTILE: HOSTILE}, dataset={HOSTILE: [HOSTILE]}, started=HOSTILE, transcript_sha256=HOSTILE,
    )  # fmt: skip


def crowded() -> Record:
    """Many worlds, long names without a break, four images per class."""
    record = sample_record()
    long = "unbreakable" * 8
    many = [
        world.model_copy(update={"name": f"{world.name}-{i}-{long}", "plan": [(long, long)]})
        for i in range(3)
        for world in record.worlds
    ]
    wide = [e.model_copy(update={"true": e.true * 4, "claimed": e.claimed * 4}) for e in examples("guess")]
    many[0].attacks[2] = many[0].attacks[2].model_copy(update={"examples": wide, "notes": {long: long}})
    return record.model_copy(update={"worlds": many, "command": long * 3, "parameters": {long: long}})


RECORDS = {
    "sample": sample_record,
    "empty": lambda: Record(status="ok", scenario="nothing"),
    "started": lambda: Record(scenario="nothing"),
    "blocked": blocked_only,
    "failed": failed,
    "hostile": hostile,
    "crowded": crowded,
}
