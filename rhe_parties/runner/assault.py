"""Every strategy on every world's view: request, claim, measurement, cell of the record."""

from __future__ import annotations

import base64
import io
import time

import numpy as np
from PIL import Image

from rhe_parties.data.datasets import to_unit
from rhe_parties.messages.payloads import AttackRequest, ClaimReport
from rhe_parties.metrics.claims import measure_claim, verdict
from rhe_parties.report.record import AttackRecord, ExampleRecord, WorldRecord
from rhe_parties.rng import numpy_stream, stream_seed
from rhe_parties.runner.plan import Attacker, Laboratory, World
from rhe_parties.runner.progress import Reporter
from rhe_parties.runner.worlds import result_record
from rhe_parties.threat.model import ADVERSARY
from rhe_parties.threat.transcript import Transcript
from rhe_parties.threat.view import AdversaryView, build_view
from rhe_parties.transport import Switchboard, Transport
from rhe_parties.types import FloatArray

__all__ = ["attack_world"]


def attack_world(
    lab: Laboratory,
    world: World,
    transport: Transport,
    transcript: Transcript,
    reporter: Reporter,
    record: WorldRecord,
) -> None:
    """Run every strategy in each of its variants on the world's view, and put the cells into `record`.

    Raises:
        TransportError: the adversary's process died or was too slow; cells made before are kept.
    """
    view = build_view(transcript.world(world.name), lab.threat_model)
    board = Switchboard(transport, transcript, lab.run_id, world.name, lab.parameters.party_timeout)
    for attacker in lab.attackers:
        for variant in attacker.variants:
            record.attacks.append(_attack(lab, world, attacker, variant, view, board, reporter))


def _attack(
    lab: Laboratory,
    world: World,
    attacker: Attacker,
    variant: str,
    view: AdversaryView,
    board: Switchboard,
    reporter: Reporter,
) -> AttackRecord:
    request = AttackRequest(
        world=world.name,
        adversary=attacker.reference,
        source=attacker.source,
        variant=variant,
        option_names=tuple(attacker.options),
        option_values=tuple(attacker.options.values()),
        # Worlds share the seed: what differs between them is the view alone.
        seed=stream_seed(lab.parameters.seed, "attack", *map(ord, attacker.strategy.name)),
        view=view.data,
        head_ids=lab.head_ids,
    )
    started = time.perf_counter()
    with reporter.stage(f"world {world.name}: {attacker.strategy.name or attacker.reference}", 1.0) as update:
        report = board.ask_untapped(ADVERSARY, request, ClaimReport, lab.parameters.attack_timeout, update)
    cell = AttackRecord.model_validate(
        {
            "adversary": attacker.reference,
            "summary": attacker.strategy.summary,
            "variant": variant,
            "outcome": "error" if report.outcome == "claim" else report.outcome,
            "missing": list(report.missing),
            "error": report.error,
            "notes": dict(zip(report.note_names, report.note_values, strict=True)),
        }
    )
    if report.outcome == "claim":
        _measure(lab, report, cell)
    cell.seconds = time.perf_counter() - started
    return cell


def _measure(lab: Laboratory, report: ClaimReport, cell: AttackRecord) -> None:
    """Compare the claim with the truth; a claim of impossible shape is the strategy's error, not the run's."""
    try:
        _check_shapes(lab, report)
        results = measure_claim(report, lab.truth, lab.heads, numpy_stream(lab.parameters.seed, "bootstrap-attack"))
    except (ValueError, IndexError) as error:
        cell.error = f"the claim cannot be measured: {error}"
        return
    cell.results = [result_record(result) for result in results]
    cell.outcome = "leaked" if verdict(results) == "leaked" else "not-leaked"
    cell.examples = _examples(lab, report)


def _check_shapes(lab: Laboratory, report: ClaimReport) -> None:
    expected = lab.head_ids
    if report.head_ids != expected:
        raise ValueError(f"it names {len(report.head_ids)} heads, the victims are {len(expected)} in their own order")
    heads, images = lab.truth.sets.shape
    wanted = {
        "images": (heads, images, *lab.truth.images.shape[1:]),
        "features": (heads, images, lab.truth.features.shape[1]),
        "weights": (heads, lab.truth.classes, lab.truth.features.shape[1]),
    }
    for name, shape in wanted.items():
        array = getattr(report, name)
        if array.size and array.shape != shape:
            raise ValueError(f"claimed {name} have shape {list(array.shape)}, expected {list(shape)}")


def _examples(lab: Laboratory, report: ClaimReport) -> list[ExampleRecord]:
    if not report.images.size:
        return []
    averages = _class_averages(lab)
    per_class = lab.truth.images_per_class
    examples = []
    for index in range(min(lab.parameters.examples, len(lab.truth.sets))):
        examples.append(
            ExampleRecord(
                head_id=lab.head_id(index),
                true=[_png(image) for image in lab.truth.images[lab.truth.sets[index]]],
                claimed=[_png(image) for image in report.images[index]],
                class_average=[_png(image) for image in averages for _ in range(per_class)],
            )
        )
    return examples


def _class_averages(lab: Laboratory) -> FloatArray:
    """[K, C, H, W]: the mean auxiliary image of each class, which is what anybody knows."""
    labels = lab.dataset.labels[lab.auxiliary]
    images = lab.dataset.images[lab.auxiliary]
    return np.stack([to_unit(images[labels == k]).mean(axis=0) for k in range(lab.truth.classes)])


def _png(image: FloatArray) -> str:
    """An image [C, H, W] in [-1, 1] as a data URI."""
    pixels = np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
