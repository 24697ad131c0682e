"""Set-ups: each party gets what it owns, and nothing of anybody else's."""

from __future__ import annotations

from rhe_parties.messages.setups import (
    MAX_HEADS,
    MAX_IMAGES,
    AdversarySetup,
    BackboneSpec,
    DataOwnerSetup,
    KeyHolderSetup,
    ModelHostSetup,
    PartySetup,
    RecipeSpec,
    encode_setup,
)
from rhe_parties.runner.plan import Laboratory, World
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, MODEL_HOST

__all__ = ["adversary_setup", "party_setups"]


def _backbone(lab: Laboratory) -> BackboneSpec:
    p = lab.parameters
    return BackboneSpec(p.backbone, p.weights, lab.backbone.fingerprint, p.device)


def _recipe(lab: Laboratory) -> RecipeSpec:
    r = lab.recipe
    return RecipeSpec(r.learning_rate, r.weight_decay, r.init_std, r.epochs)


def party_setups(lab: Laboratory, world: World) -> dict[str, bytes]:
    """Serialised set-ups of the three parties of one world, in the order in which they are seated."""
    p = lab.parameters
    owner = DataOwnerSetup(
        backbone=_backbone(lab),
        recipe=_recipe(lab),
        defence=world.reference,
        defence_source=world.source,
        classes=lab.truth.classes,
        seed=p.seed,
        images=lab.private_images,
        labels=lab.private_labels,
        sets=lab.truth.sets,
        threads=p.threads,
        max_heads=max(MAX_HEADS, len(lab.truth.sets)),
    )
    most = max(MAX_IMAGES, lab.evaluation.shape[1])
    setups: dict[str, PartySetup] = {
        KEY_HOLDER: KeyHolderSetup(world.plan, p.query_budget, world.release or p.release, most),
        MODEL_HOST: ModelHostSetup(
            _backbone(lab),
            p.threads,
            p.gather_delay_ms,
            max_images=most,
            max_heads=owner.max_heads,
            evaluator=p.evaluator,
        ),
        DATA_OWNER: owner,
    }
    return {party: encode_setup(lab.run_id, setup) for party, setup in setups.items()}


def adversary_setup(lab: Laboratory) -> bytes:
    """The adversary's seat: prior knowledge alone, the same in every world."""
    p = lab.parameters
    setup = AdversarySetup(
        backbone=_backbone(lab),
        recipe=_recipe(lab),
        classes=lab.truth.classes,
        images_per_class=p.images_per_class,
        auxiliary_images=lab.dataset.images[lab.auxiliary],
        auxiliary_labels=lab.dataset.labels[lab.auxiliary],
        threads=p.threads,
        workers=p.workers,
    )
    return encode_setup(lab.run_id, setup)
