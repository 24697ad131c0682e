"""From a serialised set-up to a seated party; every transport builds its parties here, in their own process."""

from __future__ import annotations

from pathlib import Path

import torch

from rhe_parties.attacks.base import Pool, PriorKnowledge
from rhe_parties.defences.base import DEFENCES
from rhe_parties.errors import DataError
from rhe_parties.messages.setups import (
    AdversarySetup,
    BackboneSpec,
    DataOwnerSetup,
    ModelHostSetup,
    RecipeSpec,
    decode_setup,
)
from rhe_parties.model.backbone import Backbone, load_backbone
from rhe_parties.model.head import Recipe
from rhe_parties.parties.adversary import AdversarySeat
from rhe_parties.parties.base import Party
from rhe_parties.parties.data_owner import DataOwner
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.parties.model_host import ModelHost
from rhe_parties.threads import set_threads

__all__ = ["build_party"]


def build_party(setup: bytes, pool: Pool | None = None) -> Party:
    """Seat a party.

    Args:
        setup: what `rhe_parties.messages.setups.encode_setup` gave.
        pool: workers for the adversary's strategies; None runs them in this process.

    Raises:
        MessageError: damaged set-up.
        UserError: a backbone, defence or file that cannot be loaded.
    """
    run_id, role = decode_setup(setup)
    if isinstance(role, DataOwnerSetup):
        set_threads(role.threads)
        defence = DEFENCES.load(role.defence, role.defence_source)()
        backbone, recipe = _backbone(role.backbone), _recipe(role.recipe)
        return DataOwner(
            run_id, backbone, recipe, defence, role.classes, role.images, role.labels, role.sets, role.seed
        )
    if isinstance(role, ModelHostSetup):
        set_threads(role.threads)
        return ModelHost(run_id, _backbone(role.backbone))
    if isinstance(role, AdversarySetup):
        set_threads(role.threads)
        return AdversarySeat(run_id, _prior(role), pool)
    return KeyHolder(run_id, role.plan, role.query_budget)


def _backbone(spec: BackboneSpec) -> Backbone:
    weights = spec.weights if spec.weights.startswith("random:") else (Path(spec.weights) if spec.weights else None)
    backbone = load_backbone(spec.name, weights, _device(spec.device))
    if spec.fingerprint and backbone.fingerprint != spec.fingerprint:
        raise DataError(
            f"backbone {spec.name!r} hashes to {backbone.fingerprint[:12]}, the run is set up for "
            f"{spec.fingerprint[:12]}: weights differ between machines"
        )
    return backbone


def _device(name: str) -> str:
    """`auto` is the GPU that this process was given, if any."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _recipe(spec: RecipeSpec) -> Recipe:
    return Recipe(spec.learning_rate, spec.weight_decay, spec.init_std, spec.epochs)


def _prior(role: AdversarySetup) -> PriorKnowledge:
    return PriorKnowledge(
        backbone=_backbone(role.backbone),
        recipe=_recipe(role.recipe),
        classes=role.classes,
        images_per_class=role.images_per_class,
        auxiliary_images=role.auxiliary_images,
        auxiliary_labels=role.auxiliary_labels,
    )
