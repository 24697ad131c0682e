"""From a serialised set-up to a seated party; every transport builds its parties here, in their own process.

Each role's code is imported where it is needed: a KeyHolder's process holds the key and should load little else, torch
in particular.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rhe_parties.errors import DataError
from rhe_parties.messages.setups import (
    AdversarySetup,
    BackboneSpec,
    DataOwnerSetup,
    DefenceSpec,
    KeyHolderSetup,
    ModelHostSetup,
    decode_setup,
)
from rhe_parties.parties.base import Party
from rhe_parties.registry import parse_options

if TYPE_CHECKING:
    from rhe_parties.attacks.pools import Pool
    from rhe_parties.defences.base import Defence
    from rhe_parties.model.backbone import Backbone

__all__ = ["build_party", "pick_device"]


def build_party(setup: bytes, pool: Pool | None = None) -> Party:
    """Seat a party.

    Args:
        setup: what `rhe_parties.messages.setups.encode_setup` gave.
        pool: workers for the adversary's strategies; None: as many threads of this process as the set-up allows.

    Raises:
        MessageError: damaged set-up.
        UserError: a backbone, defence or file that cannot be loaded.
    """
    run_id, role = decode_setup(setup)
    if isinstance(role, KeyHolderSetup):
        from rhe_parties.parties.canaries import Canaries
        from rhe_parties.parties.key_holder import KeyHolder
        from rhe_parties.parties.release import parse_release

        defences = [_defence(spec) for spec in role.defences]
        release = replace(parse_release(role.release), defences=defences)
        canaries = Canaries(role.canaries, role.canary_share)
        return KeyHolder(
            run_id, role.plan, role.query_budget, release, role.max_images, role.noise_check, canaries=canaries
        )

    from rhe_parties.threads import limited_threads, one_blas_thread

    one_blas_thread()
    with limited_threads(role.threads):
        party = _computing_party(run_id, role, pool)
    party.computing = functools.partial(limited_threads, role.threads)
    return party


def _computing_party(run_id: str, role: DataOwnerSetup | ModelHostSetup | AdversarySetup, pool: Pool | None) -> Party:
    if isinstance(role, DataOwnerSetup):
        return _data_owner(run_id, role)
    if isinstance(role, ModelHostSetup):
        from rhe_parties.parties.model_host import Corruption, HostLimits, ModelHost

        delay = role.gather_delay_ms / 1000
        limits = HostLimits(delay, role.gather_inputs, role.max_images, role.max_heads, role.takes_features)
        corruption = Corruption(role.active) if role.corrupted else None
        return ModelHost(run_id, _backbone(role.backbone), limits, evaluator=role.evaluator, corruption=corruption)
    return _adversary(run_id, role, pool)


def _data_owner(run_id: str, role: DataOwnerSetup) -> Party:
    from rhe_parties.parties.data_owner import DataOwner

    return DataOwner(
        run_id,
        _backbone(role.backbone),
        role.recipe.two_layer() or role.recipe.linear(),
        [_defence(spec) for spec in role.defences],
        role.classes,
        role.images,
        role.labels,
        role.sets,
        role.seed,
        role.max_heads,
        role.tag,
        role.canaries,
    )


def _defence(spec: DefenceSpec) -> Defence:
    from rhe_parties.defences.base import DEFENCES

    cls = DEFENCES.load(spec.reference, spec.source)
    fitted = dict(zip(spec.fitted_names, spec.fitted, strict=True))
    return cls(parse_options("defence", cls, spec.options), fitted)


def _adversary(run_id: str, role: AdversarySetup, pool: Pool | None) -> Party:
    from rhe_parties.attacks.base import FinerLabels, PriorKnowledge
    from rhe_parties.attacks.pools import ThreadPool
    from rhe_parties.parties.adversary import AdversarySeat

    prior = PriorKnowledge(
        backbone=_backbone(role.backbone),
        recipe=role.recipe.linear(),
        classes=role.classes,
        images_per_class=role.images_per_class,
        auxiliary_images=role.auxiliary_images,
        auxiliary_labels=role.auxiliary_labels,
        two_layer=role.recipe.two_layer(),
        finer=None if role.auxiliary_kinds is None else FinerLabels(role.auxiliary_kinds, role.kinds),
    )
    return AdversarySeat(run_id, prior, pool or ThreadPool(role.threads))


def _backbone(spec: BackboneSpec) -> Backbone:
    from rhe_parties.model.backbone import load_backbone

    weights = spec.weights if spec.weights.startswith("random:") else (Path(spec.weights) if spec.weights else None)
    backbone = load_backbone(spec.name, weights, pick_device(spec.device))
    if spec.fingerprint and backbone.fingerprint != spec.fingerprint:
        raise DataError(
            f"backbone {spec.name!r} hashes to {backbone.fingerprint[:12]}, the run is set up for "
            f"{spec.fingerprint[:12]}: weights differ between machines"
        )
    return backbone


def pick_device(name: str) -> str:
    """Torch's name of a device; `auto` is the GPU that this process was given, if any."""
    if name == "auto":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
