"""Set-ups: each party gets what it owns, and nothing of anybody else's."""

from __future__ import annotations

import numpy as np

from rhe_parties.data.domains import mixture_images
from rhe_parties.messages.recipes import RecipeSpec
from rhe_parties.messages.setups import (
    MAX_HEADS,
    MAX_IMAGES,
    AdversarySetup,
    BackboneSpec,
    DataOwnerSetup,
    KeyHolderSetup,
    ModelHostSetup,
    PartySetup,
    encode_setup,
)
from rhe_parties.rng import numpy_stream
from rhe_parties.runner.plan import Laboratory
from rhe_parties.runner.world import World
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, MODEL_HOST
from rhe_parties.types import IntArray, UInt8Array

__all__ = ["adversary_setup", "party_setups"]


def _backbone(lab: Laboratory) -> BackboneSpec:
    p = lab.parameters
    return BackboneSpec(p.backbone, p.weights, lab.backbone.fingerprint, p.device)


def party_setups(lab: Laboratory, world: World) -> dict[str, bytes]:
    """Serialised set-ups of the three parties of one world, in the order in which they are seated."""
    p = lab.parameters
    canaries = lab.canary_images if world.canaries else None
    owner = DataOwnerSetup(
        backbone=_backbone(lab),
        recipe=RecipeSpec.of(world.recipe or lab.recipe),
        defences=tuple(applied.spec(fitted=applied.cls.trains()) for applied in world.defences),
        classes=lab.truth.classes,
        seed=p.seed,
        images=lab.private_images,
        labels=lab.private_labels,
        sets=lab.truth.sets,
        threads=p.threads,
        max_heads=max(MAX_HEADS, len(lab.truth.sets)),
        tag=world.tag,
        canaries=canaries,
    )
    most = max(MAX_IMAGES, lab.evaluation.shape[1])
    setups: dict[str, PartySetup] = {
        KEY_HOLDER: KeyHolderSetup(
            world.plan,
            p.query_budget,
            world.release or p.release,
            most,
            tuple(applied.spec(fitted=True) for applied in world.releasing),
            world.noise_check,
            canaries,
            world.canaries,
        ),
        MODEL_HOST: ModelHostSetup(
            _backbone(lab),
            p.threads,
            p.gather_delay_ms,
            max_images=most,
            max_heads=owner.max_heads,
            evaluator=p.evaluator,
            corrupted=MODEL_HOST in p.corrupted,
            active=world.malicious,
        ),
        DATA_OWNER: owner,
    }
    return {party: encode_setup(lab.run_id, setup) for party, setup in setups.items()}


def _auxiliary(lab: Laboratory) -> tuple[UInt8Array, IntArray, IntArray | None]:
    """The adversary's images, labels and finer labels; where foreign ones are mixed in, as many and no labels."""
    images, labels, finer = lab.dataset.images[lab.auxiliary], lab.dataset.labels[lab.auxiliary], lab.dataset.finer
    if not lab.parameters.auxiliary_mixture:
        return images, labels, None if finer is None else finer.labels[lab.auxiliary]
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    foreign = mixture_images(lab.parameters.auxiliary_mixture, len(images), shape, lab.parameters.seed)
    pool = np.concatenate([images, foreign])
    order = numpy_stream(lab.parameters.seed, "auxiliary-mixture").permutation(len(pool))
    return pool[order], np.full(len(pool), -1, np.int64), None


def adversary_setup(lab: Laboratory) -> bytes:
    """The adversary's seat: prior knowledge alone, the same in every world."""
    p = lab.parameters
    images, labels, kinds = _auxiliary(lab)
    balanced = lab.dataset.finer or lab.dataset
    setup = AdversarySetup(
        backbone=_backbone(lab),
        recipe=RecipeSpec.of(lab.recipe),
        classes=lab.truth.classes,
        images_per_class=p.images_per_class * balanced.classes // lab.truth.classes,
        auxiliary_images=images,
        auxiliary_labels=labels,
        threads=p.threads,
        workers=p.workers,
        kinds=0 if kinds is None else balanced.classes,
        auxiliary_kinds=kinds,
    )
    return encode_setup(lab.run_id, setup)
