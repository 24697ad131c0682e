"""Everything that is checked and prepared before the first party is seated, so that mistakes cost no waiting."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rhe_parties.attacks.base import ADVERSARIES, AS_IS, CIPHERTEXT, Strategy
from rhe_parties.data.datasets import Dataset, load_dataset, to_unit, with_parity
from rhe_parties.data.splits import Splits, split_dataset
from rhe_parties.defences.base import PublicData
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.he.planner import plan_head
from rhe_parties.metrics.reconstruction import GroundTruth
from rhe_parties.model.backbone import Backbone, load_backbone
from rhe_parties.model.binary_head import BinaryHead
from rhe_parties.model.head import LinearHead, Recipe, initial_weights
from rhe_parties.model.two_layer import BatchRecipe
from rhe_parties.registry import parse_options, read_plugin_source
from rhe_parties.rng import numpy_stream, stream_seed
from rhe_parties.runner.heads import TrueHead, check_classes, check_hidden, head_recipe, true_heads
from rhe_parties.runner.parameters import BASELINE, Parameters
from rhe_parties.runner.tasks import Task, evaluation_with_members, make_task, with_initial_weights
from rhe_parties.runner.world import World, resolve_worlds
from rhe_parties.threat.model import KNOWLEDGE, ThreatModel
from rhe_parties.types import AnyArray, FloatArray, IntArray, UInt8Array

__all__ = ["Attacker", "Laboratory", "prepare", "resolve_attackers"]

# Public images from which the norm bound of features is read off, and the room that is left above the longest.
_CALIBRATION_IMAGES, _NORM_ROOM = 512, 1.25
# Fresh images on which an extracted head is compared with the true one; public images that claims are compared with.
_AGREEMENT_IMAGES, _PUBLIC_IMAGES = 2000, 5000
# Inputs whose right classes owner and key holder know, where a world has such.
_CANARIES = 64


@dataclass(frozen=True)
class Attacker:
    """One strategy of the run: reference, plug-in text, class and options as text."""

    reference: str
    source: str
    strategy: type[Strategy]
    options: dict[str, str]

    @property
    def variants(self) -> tuple[str, ...]:
        """The forms in which it runs."""
        return (AS_IS, CIPHERTEXT) if self.strategy.ciphertext_needs else (AS_IS,)


@dataclass(frozen=True)
class Laboratory:
    """What the laboratory knows, ground truth included; parties are given only their own part of it.

    `evaluation` are dataset indices [V, B] of the images that each head decides on, `evaluation_features` their
    features [V, B, D], `evaluation_members` bool [V, B] says which of them are the head's own training images;
    `auxiliary` are dataset indices [n] of the adversary's images.
    """

    parameters: Parameters
    run_id: str
    dataset: Dataset
    splits: Splits
    backbone: Backbone
    recipe: Recipe | BatchRecipe
    truth: GroundTruth
    private_images: UInt8Array
    private_labels: IntArray
    auxiliary: IntArray
    evaluation: IntArray
    evaluation_features: FloatArray
    evaluation_members: AnyArray
    task: Task
    worlds: list[World]
    attackers: list[Attacker]
    threat_model: ThreatModel
    _heads: dict[str, list[TrueHead]] = field(default_factory=dict, repr=False)

    def heads(self, world: World) -> list[LinearHead | BinaryHead]:
        """The float heads as the owner trains them in a world: the reference for decisions and weights."""
        return [true.head for true in self._trained(world)]

    def evaluation_features_in(self, world: World) -> FloatArray:
        """`evaluation_features` [V, B, D] as each head's own backbone gives them in a world."""
        if world.adaptation is None:
            return self.evaluation_features
        pairs = zip(self._trained(world), self.evaluation, strict=True)
        return np.stack([true.backbone.extract(self.dataset.images[rows]) for true, rows in pairs])

    def _trained(self, world: World) -> list[TrueHead]:
        if world.name not in self._heads:
            self._heads[world.name] = true_heads(
                self.truth, self.private_images, self.backbone, world.recipe or self.recipe, world.trainer(),
                self.parameters.seed,
            )  # fmt: skip
        return self._heads[world.name]

    def reads_ciphertexts(self, world: World) -> bool:
        """Whether attacks run on this world's ciphertexts, as the parameter `ciphertexts` says."""
        if self.parameters.ciphertexts == "always" or not world.scheme:
            return True
        return world is next(other for other in self.worlds if other.scheme == world.scheme)

    @property
    def canary_images(self) -> UInt8Array:
        """Images uint8 [C, ch, H, W] whose classes owner and key holder may know: of the evaluation part."""
        return self.dataset.images[_sample(self.splits.evaluation, _CANARIES, self.parameters.seed, "canaries")]

    @property
    def head_ids(self) -> tuple[str, ...]:
        """Names of all victim heads, in the order of `truth.sets`."""
        return tuple(self.head_id(index) for index in range(len(self.truth.sets)))

    def head_id(self, index: int) -> str:
        """Name of victim head `index`."""
        return f"victim-{index:04d}"


def resolve_attackers(parameters: Parameters) -> list[Attacker]:
    """The strategies by name, the baseline first.

    Raises:
        ParameterError, PluginError: unknown strategy or option, or a plug-in that does not load.
    """
    attackers = []
    for reference in dict.fromkeys((BASELINE, *parameters.adversary)):
        source = read_plugin_source(reference)
        strategy = ADVERSARIES.load(reference, source)
        options = parameters.options.get(reference, parameters.options.get(reference.rpartition(":")[2], {}))
        parse_options("adversary", strategy, options)
        attackers.append(Attacker(reference, source, strategy, options))
    return attackers


def prepare(parameters: Parameters) -> Laboratory:
    """Load data and backbone, cut the splits, train the true heads, and plan the encryption.

    Raises:
        UserError: anything that the user can mend, features that no head can be trained on among it.
    """
    try:
        return _prepare(parameters)
    except NumericError as error:
        raise DataError(f"dataset {parameters.dataset!r} with backbone {parameters.backbone!r}: {error}") from error


def _prepare(parameters: Parameters) -> Laboratory:
    worlds, attackers = resolve_worlds(parameters), resolve_attackers(parameters)
    check_hidden(parameters, worlds)
    dataset = load_dataset(parameters.dataset, parameters.data_root, parameters.image_size)
    if parameters.labels == "parity":
        dataset = with_parity(dataset)
    check_classes(parameters, dataset.classes)
    weights = parameters.weights if parameters.weights.startswith("random:") else _path(parameters.weights)
    backbone = load_backbone(parameters.backbone, weights)
    splits = split_dataset(dataset, parameters.seed)
    task = make_task(parameters, dataset, splits)
    auxiliary = _sample(splits.auxiliary, parameters.auxiliary_images, parameters.seed, "auxiliary")
    unseen = _evaluation_sets(splits.evaluation, len(task.sets), parameters.evaluation_images, parameters.seed)
    evaluation, members = evaluation_with_members(unseen, task.evaluation_members, parameters.seed)
    truth = _truth(dataset, splits, backbone, task, auxiliary, parameters.seed)
    if task.evaluation_members is not None:
        truth = dataclasses.replace(
            truth,
            inputs=to_unit(dataset.images[evaluation]),
            input_labels=dataset.labels[evaluation],
            input_members=members,
        )
    recipe = head_recipe(parameters)
    worlds = _tuned(worlds, recipe, dataset, backbone, auxiliary, parameters)
    if parameters.initial_weights:
        seeds = [stream_seed(parameters.seed, "victim-head", index) for index in range(len(task.sets))]
        task = with_initial_weights(task, initial_weights(seeds, dataset.classes, backbone.features, recipe.init_std))
    norm = _feature_norm(parameters, backbone, dataset.images[auxiliary[:_CALIBRATION_IMAGES]])
    worlds = [_with_plan(world, parameters, (backbone.features, dataset.classes), norm) for world in worlds]
    return Laboratory(
        parameters=parameters,
        run_id=_run_id(parameters),
        dataset=dataset,
        splits=splits,
        backbone=backbone,
        recipe=recipe,
        truth=truth,
        private_images=dataset.images[splits.private],
        private_labels=truth.labels,
        auxiliary=auxiliary,
        evaluation=evaluation,
        evaluation_features=_features_of(backbone, dataset, evaluation),
        evaluation_members=members,
        task=task,
        worlds=worlds,
        attackers=attackers,
        threat_model=ThreatModel(
            corrupted=parameters.corrupted,
            query_budget=parameters.query_budget or None,
            knows=_knowledge(parameters),
        ),
    )


def _tuned(
    worlds: list[World],
    recipe: Recipe | BatchRecipe,
    dataset: Dataset,
    backbone: Backbone,
    auxiliary: IntArray,
    parameters: Parameters,
) -> list[World]:
    """The worlds with what their defences make of public data: a sample of the auxiliary images."""
    rows = _sample(auxiliary, _PUBLIC_IMAGES, parameters.seed, "defender")
    images = dataset.images[rows]
    per_class = parameters.images_per_class * (dataset.finer or dataset).classes // dataset.classes
    public = PublicData(images, backbone.extract, dataset.labels[rows], dataset.classes, per_class, parameters.seed)
    return [world.tuned(recipe, public) for world in worlds]


def _knowledge(parameters: Parameters) -> tuple[str, ...]:
    more = {"informed": ("all-but-one",), "membership": ("candidates",)}.get(parameters.task, ())
    return (*KNOWLEDGE, *more, *(("initial-weights",) if parameters.initial_weights else ()))


def _truth(
    dataset: Dataset, splits: Splits, backbone: Backbone, task: Task, auxiliary: IntArray, seed: int
) -> GroundTruth:
    fresh = backbone.extract(dataset.images[_sample(splits.evaluation, _AGREEMENT_IMAGES, seed, "agreement")])
    stream = numpy_stream(seed, "agreement-mixes")
    pairs, share = stream.integers(len(fresh), size=(2, len(fresh))), stream.random((len(fresh), 1))
    mixes = share * fresh[pairs[0]] + (1 - share) * fresh[pairs[1]]
    public = _sample(auxiliary, _PUBLIC_IMAGES, seed, "public")
    place = np.full(len(dataset.labels), -1, dtype=np.int64)
    place[splits.private] = np.arange(len(splits.private))
    return GroundTruth(
        images=to_unit(dataset.images[splits.private]),
        features=backbone.extract(dataset.images[splits.private]),
        labels=dataset.labels[splits.private],
        sets=place[task.sets],
        classes=dataset.classes,
        targets=None if task.targets is None else place[task.targets],
        members=task.members,
        property_index=task.property_index,
        property_values=task.challenge.property_values,
        agreement_features=fresh,
        random_features=mixes.astype(np.float32),
        public_images=to_unit(dataset.images[public]),
        public_labels=dataset.labels[public],
    )


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _sample(indices: IntArray, most: int, seed: int, purpose: str) -> IntArray:
    """At most `most` of the indices, drawn by the seed, in ascending order."""
    if len(indices) <= most:
        return indices
    return np.sort(numpy_stream(seed, f"sample-{purpose}").choice(indices, size=most, replace=False))


def _evaluation_sets(indices: IntArray, heads: int, images: int, seed: int) -> IntArray:
    """[V, B]: each head decides on the next B images of one shuffled round trip through the evaluation part.

    Raises:
        ParameterError: more images per head than there are.
    """
    if images > len(indices):
        raise ParameterError(f"evaluation_images={images} is not allowed: the evaluation part has {len(indices)}")
    shuffled = numpy_stream(seed, "sample-evaluation").permutation(indices)
    return shuffled[np.arange(heads * images).reshape(heads, images) % len(shuffled)]


def _features_of(backbone: Backbone, dataset: Dataset, indices: IntArray) -> FloatArray:
    """Features [V, B, D] of images [V, B], each image extracted once."""
    unique, place = np.unique(indices, return_inverse=True)
    return backbone.extract(dataset.images[unique])[place.reshape(indices.shape)]


def _feature_norm(parameters: Parameters, backbone: Backbone, public: UInt8Array) -> float:
    """Public bound of a feature vector's norm: given, or read off auxiliary images (never private ones)."""
    if parameters.feature_norm is not None:
        return parameters.feature_norm
    longest = float(np.linalg.norm(backbone.extract(public).astype(np.float64), axis=1).max())
    return float(2.0 ** (np.ceil(4 * np.log2(max(_NORM_ROOM * longest, 2.0**-20))) / 4))


def _with_plan(world: World, parameters: Parameters, shape: tuple[int, int], norm: float) -> World:
    if not world.scheme:
        return world
    p, (features, classes) = parameters, shape
    plan = plan_head(
        features,
        classes + world.tag,
        (p.hidden,) if p.hidden else (),
        p.batch,
        p.logit_error,
        scheme=world.scheme,
        feature_norm=norm,
    )
    return dataclasses.replace(world, plan=plan)


def _run_id(parameters: Parameters) -> str:
    """A function of what decides the transcript, so that equal scenarios give equal envelopes."""
    skip = {
        "transport",
        "address",
        "workers",
        "party_timeout",
        "attack_timeout",
        "examples",
        "resources",
        "data_root",
    }
    text = parameters.model_dump_json(exclude=skip | {"adversary", "options"})
    return hashlib.sha256(text.encode()).hexdigest()[:16]
