"""What a scenario's adversary is to find out: which sets the victims train on, what it is handed, what the truth is.

- `reconstruction`: the training images, from the view alone;
- `membership`: which of 2N candidates were among a head's N training images;
- `property`: a property of each training set (`rhe_parties.data.properties`);
- `informed`: one training image, all others known;
- `inversion`: the images that were classified, half of them training images, from the released answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from rhe_parties.data.datasets import Dataset
from rhe_parties.data.properties import parse_property, property_sets
from rhe_parties.data.splits import Splits, victim_sets
from rhe_parties.errors import ParameterError
from rhe_parties.messages.payloads import Challenge
from rhe_parties.rng import numpy_stream
from rhe_parties.runner.parameters import TASKS, Parameters
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["TASKS", "Task", "evaluation_with_members", "make_task", "with_initial_weights"]


@dataclass(frozen=True)
class Task:
    """Sets and challenge of a run, and the truths that go with them.

    Attributes:
        sets: dataset indices int64 [V, N], ordered by class.
        challenge: what the adversary is handed beside its view.
        targets: dataset indices int64 [V, T] of the images to reconstruct; None: all of `sets`.
        members: bool [V, M], which candidates were training images.
        property_index: int64 [V], the place of each set's property among `challenge.property_values`.
        evaluation_members: training images int64 [V, N] (dataset indices) that are also classified, or None.
    """

    sets: IntArray
    challenge: Challenge = field(default_factory=Challenge)
    targets: IntArray | None = None
    members: AnyArray | None = None
    property_index: IntArray | None = None
    evaluation_members: IntArray | None = None


def make_task(p: Parameters, dataset: Dataset, splits: Splits) -> Task:
    """Draw the victims' sets and make the challenge; a function of the parameters' seed.

    Raises:
        ParameterError, DataError: more victims or images than there are, or an unknown property.
    """
    if p.task == "property":
        return _property(p, dataset, splits)
    balanced = dataset.finer or dataset
    sets = victim_sets(balanced.labels, splits.private, p.images_per_class, p.victims, p.seed)
    if p.task == "membership":
        return _membership(p, dataset, splits, sets)
    if p.task == "informed":
        return _informed(p, dataset, sets)
    return Task(sets, evaluation_members=sets if p.task == "inversion" else None)


def _membership(p: Parameters, dataset: Dataset, splits: Splits, sets: IntArray) -> Task:
    """As many fresh private images of each class as members, all shuffled anew for every head."""
    pools = [splits.private[dataset.labels[splits.private] == label] for label in range(dataset.classes)]
    candidates = np.empty((len(sets), 2 * sets.shape[1]), np.int64)
    members = np.empty(candidates.shape, np.bool_)
    for head, own in enumerate(sets):
        stream = numpy_stream(p.seed, "membership-candidates", head)
        fresh = []
        for label, pool in enumerate(pools):
            others = np.setdiff1d(pool, own)
            wanted = int((dataset.labels[own] == label).sum())
            if len(others) < wanted:
                raise ParameterError(f"class {label} has only {len(others)} private images outside one training set")
            fresh.append(stream.choice(others, size=wanted, replace=False))
        order = stream.permutation(2 * len(own))
        candidates[head] = np.concatenate([own, *fresh])[order]
        members[head] = (np.arange(2 * len(own)) < len(own))[order]
    challenge = Challenge(candidates=dataset.images[candidates], candidate_labels=dataset.labels[candidates])
    return Task(sets, challenge, members=members)


def _informed(p: Parameters, dataset: Dataset, sets: IntArray) -> Task:
    place = numpy_stream(p.seed, "informed-target").integers(sets.shape[1], size=len(sets))
    heads = np.arange(len(sets))
    known = np.ones(sets.shape, np.bool_)
    known[heads, place] = False
    rows, targets = sets[known].reshape(len(sets), -1), sets[heads, place]
    challenge = Challenge(
        known_images=dataset.images[rows], known_labels=dataset.labels[rows], target_labels=dataset.labels[targets]
    )
    return Task(sets, challenge, targets=targets[:, None])


def _property(p: Parameters, dataset: Dataset, splits: Splits) -> Task:
    """Heads take the values in turn, so that each is as frequent as the others."""
    values = p.property_values or parse_property(p.property, dataset.classes).values
    if len(set(values)) != len(values) or len(values) < 2:
        raise ParameterError(f"property_values={values!r} must name at least two different values")
    index = np.arange(p.victims, dtype=np.int64) % len(values)
    images, labels = dataset.images[splits.private], dataset.labels[splits.private]
    total = p.images_per_class * (dataset.finer or dataset).classes
    sets = np.empty((p.victims, total), np.int64)
    for place, value in enumerate(values):
        rows = np.flatnonzero(index == place)
        if len(rows) == 0:
            raise ParameterError(f"victims={p.victims} is not allowed: at least one per property value, {len(values)}")
        drawn = property_sets(images, labels, dataset.classes, total, p.property, value, len(rows), p.seed)
        sets[rows] = splits.private[drawn]
    challenge = Challenge(property_values=np.asarray(values, np.float32), property_name=p.property)
    return Task(sets, challenge, property_index=index)


def evaluation_with_members(unseen: IntArray, members: IntArray | None, seed: int) -> tuple[IntArray, AnyArray]:
    """Dataset indices [V, B] that each head decides on, training images mixed in where a task wants them, and which.

    Returns:
        indices int64 [V, B] and bool [V, B], true where the image is one of the head's own training images.
    """
    if members is None:
        return unseen, np.zeros(unseen.shape, np.bool_)
    joined = np.concatenate([members, unseen], axis=1)
    own = np.broadcast_to(np.arange(joined.shape[1]) < members.shape[1], joined.shape)
    order = np.stack(
        [numpy_stream(seed, "input-order", head).permutation(joined.shape[1]) for head in range(len(joined))]
    )
    return np.take_along_axis(joined, order, axis=1), np.take_along_axis(own, order, axis=1)


def with_initial_weights(task: Task, weights: FloatArray) -> Task:
    """The task whose challenge also hands over the weights before training [V, K, D]."""
    return replace(task, challenge=replace(task.challenge, initial_weights=weights))
