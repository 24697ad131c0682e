"""Every strategy on every world's view: request, claim, measurement, cell of the record."""

from __future__ import annotations

import base64
import functools
import io
import time
from typing import Literal

import numpy as np
from PIL import Image

from rhe_parties.attacks.base import CIPHERTEXT
from rhe_parties.data.datasets import Dataset, to_unit
from rhe_parties.errors import MessageError, NumericError
from rhe_parties.messages.payloads import AttackRequest, ClaimReport
from rhe_parties.messages.recipes import RecipeSpec
from rhe_parties.metrics.claims import measure_claim, verdict
from rhe_parties.metrics.curves import claim_curves, claim_histograms
from rhe_parties.metrics.truth import MeasuredClaim
from rhe_parties.model.backbone import Backbone
from rhe_parties.report.record import AttackRecord, CurveRecord, ExampleRecord, HistogramRecord, WorldRecord
from rhe_parties.rng import numpy_stream, stream_seed
from rhe_parties.runner.plan import Attacker, Laboratory
from rhe_parties.runner.progress import Reporter
from rhe_parties.runner.world import World
from rhe_parties.runner.worlds import result_record
from rhe_parties.threat.transcript import Transcript
from rhe_parties.threat.view import AdversaryView, build_view
from rhe_parties.transport import Switchboard, Transport
from rhe_parties.types import FloatArray

__all__ = ["attack", "attack_world"]

_PICTURES = 40  # of one head in the report


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
    view = build_view(transcript.world(world.name), world.threat_model(lab.threat_model))
    board = Switchboard(transport, transcript, lab.run_id, world.name, lab.parameters.party_timeout)
    for attacker in lab.attackers:
        for variant in attacker.variants:
            if variant == CIPHERTEXT and not lab.reads_ciphertexts(world):
                continue
            record.attacks.append(attack(lab, world, attacker, variant, view, board, reporter))


def attack(
    lab: Laboratory,
    world: World,
    attacker: Attacker,
    variant: str,
    view: AdversaryView,
    board: Switchboard,
    reporter: Reporter,
) -> AttackRecord:
    """One strategy in one variant on one view, measured; see `attack_world`."""
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
        challenge=lab.task.challenge,
        recipe=RecipeSpec.of(world.recipe or lab.recipe),
        defences=tuple(applied.text for applied in world.defences),
        active=world.malicious,
    )
    started = time.perf_counter()
    with reporter.stage(f"world {world.name}: {attacker.strategy.name or attacker.reference}", 1.0) as update:
        try:
            report = board.order_attack(request, ClaimReport, lab.parameters.attack_timeout, update)
        except MessageError as error:  # a challenge too large for one message: this cell fails, the run goes on
            report = ClaimReport(attacker.reference, variant, "error", error=f"{error}: fewer victims or candidates")
    cell = AttackRecord.model_validate(
        {
            "adversary": attacker.reference,
            "summary": attacker.strategy.summary,
            "goal": attacker.strategy.goal,
            "variant": variant,
            "outcome": "error" if report.outcome == "claim" else report.outcome,
            "missing": list(report.missing),
            "error": report.error,
            "notes": dict(zip(report.note_names, report.note_values, strict=True)),
        }
    )
    if report.outcome == "claim":
        _measure(lab, world, report, cell)
    cell.seconds = time.perf_counter() - started
    return cell


def _measure(lab: Laboratory, world: World, report: ClaimReport, cell: AttackRecord) -> None:
    """Compare the claim with the truth; a claim of impossible shape is the strategy's error, not the run's."""
    claim = MeasuredClaim(lab.truth.about_aims(report.named), report.queries, report.activation)
    stream = numpy_stream(lab.parameters.seed, "bootstrap-attack")
    try:
        if report.head_ids != lab.head_ids:
            raise ValueError(
                f"it names {len(report.head_ids)} heads, the victims are {len(lab.head_ids)} in their order"
            )
        results = measure_claim(claim, lab.truth, lab.heads(world), stream, functools.partial(_features, lab.backbone))
        curves = claim_curves(claim, lab.truth, numpy_stream(lab.parameters.seed, "bootstrap-curves"))
        histograms = claim_histograms(claim, lab.truth)
    except (ValueError, IndexError, NumericError) as error:
        cell.error = f"the claim cannot be measured: {error}"
        return
    cell.results = [result_record(result) for result in results]
    cell.curves = [CurveRecord.of(curve) for curve in curves]
    cell.histograms = [HistogramRecord.of(histogram) for histogram in histograms]
    cell.outcome = "leaked" if verdict(results) == "leaked" else "not-leaked"
    cell.examples = _examples(lab, claim)


def _features(backbone: Backbone, images: FloatArray) -> FloatArray:
    """Public features [n, D] of images [n, C, H, W] in [-1, 1]."""
    return backbone.extract(np.clip((images + 1) * 127.5, 0, 255).round().astype(np.uint8))


def _examples(lab: Laboratory, claim: MeasuredClaim) -> list[ExampleRecord]:
    """True and claimed images of the first heads: training images, or the images that were classified."""
    inputs, images = claim.get("inputs"), claim.get("images")
    truth, names = lab.truth, lab.dataset.class_names
    subject: Literal["inputs", "training"] = "training"
    if inputs is not None and truth.inputs is not None and truth.input_labels is not None:
        true, claimed, labels, subject = truth.inputs, inputs, truth.input_labels, "inputs"
    elif images is not None:
        true, claimed, labels = truth.images[truth.aims], images, truth.labels[truth.aims]
    else:
        return []
    averages, kinds = truth.class_means, labels
    if subject == "training" and lab.dataset.finer is not None:
        averages, kinds = (
            _finer_averages(lab, lab.dataset.finer),
            lab.dataset.finer.labels[lab.splits.private][truth.aims],
        )
    blank = np.zeros(true.shape[2:], np.float32)
    return [
        ExampleRecord(
            head_id=lab.head_id(index),
            true=[_png(image) for image in true[index, :_PICTURES]],
            claimed=[_png(image) for image in claimed[index, :_PICTURES]],
            class_average=[_png(averages.get(int(kind), blank)) for kind in kinds[index, :_PICTURES]],
            subject=subject,
            classes=[names[int(label)] for label in labels[index, :_PICTURES]],
        )
        for index in range(min(lab.parameters.examples, len(true)))
    ]


def _finer_averages(lab: Laboratory, finer: Dataset) -> dict[int, FloatArray]:
    """Mean auxiliary image [C, H, W] of everything that training sets are balanced over, which the adversary knows."""
    images, labels = to_unit(lab.dataset.images[lab.auxiliary]), finer.labels[lab.auxiliary]
    return {int(k): images[labels == k].mean(axis=0) for k in np.unique(labels)}


def _png(image: FloatArray) -> str:
    """An image [C, H, W] in [-1, 1] as a data URI."""
    pixels = np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
