"""The owner's head: trained on its images and encrypted for the key holder, in the folder of `head_files`."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rhe_parties.data.imagefolder import read_folder
from rhe_parties.errors import DataError, MessageError, ParameterError, ProtocolError, unknown_name
from rhe_parties.he.scheme import NOISE_CHECKED, PublicMaterial, make_encryptor
from rhe_parties.messages.checks import check_name
from rhe_parties.messages.fingerprints import head_fingerprint
from rhe_parties.messages.payloads import HeadNotice
from rhe_parties.metrics.intervals import clopper_pearson
from rhe_parties.model.backbone import Backbone, load_backbone
from rhe_parties.model.head import LinearHead, Recipe, train_head
from rhe_parties.parties.build import pick_device
from rhe_parties.parties.encrypting import encrypted_head
from rhe_parties.rng import numpy_stream
from rhe_parties.service.head_files import (
    CARD,
    WEIGHTS,
    EncryptedFiles,
    HeadCard,
    check_private,
    load_card,
    save_encrypted,
    write_file,
)
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = [
    "Accuracy",
    "Images",
    "Trained",
    "encrypt",
    "load_trained",
    "read_images",
    "train",
]

DEVICES = ("auto", "cpu", "cuda")
_SECRETS = "rhe_parties"


@dataclass(frozen=True)
class Images:
    """A user's folder: images uint8 [n, C, S, S], labels int64 [n], rows to train on and (maybe none) to test on."""

    images: UInt8Array
    labels: IntArray
    class_names: tuple[str, ...]
    training: IntArray
    test: IntArray


@dataclass(frozen=True)
class Accuracy:
    """Images of the test part that the plain head decides rightly, and the exact 95 % interval of their share."""

    right: int
    images: int
    low: float
    high: float


@dataclass(frozen=True)
class Trained:
    """A head of the owner's, in the clear; `longest`: the largest norm of a training image's features.

    `accuracy` is None where all images were trained on, and where the head was read from its folder.
    """

    card: HeadCard
    head: LinearHead
    longest: float
    accuracy: Accuracy | None = None


# ---- training ------------------------------------------------------------------------------------------------------


def read_images(folder: Path, image_size: int, images_per_class: int | None, seed: int) -> Images:
    """Read a folder of images, one folder per class below it or below its `train` and `test`.

    Args:
        folder: see `rhe_parties.data.imagefolder.read_folder`.
        image_size: side in pixels.
        images_per_class: training images of each class, drawn by the seed; None: all. Without `test` the rest tests.
        seed: of the draw.

    Raises:
        DataError: a folder or image that cannot be read, or a class with too few images.
        ParameterError: fewer than one image of each class.
    """
    images, labels, names, official = read_folder(folder, image_size)
    if images_per_class is not None and images_per_class < 1:
        raise ParameterError(f"--images-per-class {images_per_class} is not allowed: at least 1")
    private = np.ones(len(labels), np.bool_) if official is None else ~official
    chosen = []
    for label, name in enumerate(names):
        pool = np.flatnonzero(private & (labels == label))
        count = len(pool) if images_per_class is None else images_per_class
        if count > len(pool):
            raise DataError(f"class {name!r} in {folder} has {len(pool)} images to train on, {count} are wanted")
        chosen.append(numpy_stream(seed, "owner-images", label).permutation(pool)[:count])
    training = np.sort(np.concatenate(chosen))
    rest = np.ones(len(labels), np.bool_) if official is None else official.copy()
    rest[training] = False
    return Images(images, labels, names, training, np.flatnonzero(rest))


def train(
    folder: Path,
    out: Path,
    name: str | None = None,
    backbone: str = "strokenet",
    weights: str | None = None,
    images_per_class: int | None = None,
    seed: int | None = None,
    device: str = "auto",
) -> Trained:
    """Train a linear head by the paper's recipe and write head.json and head.safetensors.

    Args:
        folder: of images, see `read_images`.
        out: folder of the head, made where it is not there; it must hold none.
        name: id of the head; None: the name of `out`.
        backbone, weights: see `load_backbone`.
        images_per_class: see `read_images`.
        seed: of the initial weights, and of the draw of images; None: one that nobody can guess.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        ParameterError: a name, number or device that is not allowed.
        DataError: images or weights that cannot be read, or a folder that holds a head or cannot be written.
    """
    name = _checked_name(out.resolve().name if name is None else name)
    if (out / WEIGHTS).exists():
        raise DataError(f"{str(out)!r} holds a head already, which is never overwritten; name another folder")
    seed = secrets.randbits(63) if seed is None else seed
    network = _loaded(backbone, weights, device)
    found = read_images(folder, network.image_size, images_per_class, seed)
    features = network.extract(found.images)
    rows, labels = features[found.training], found.labels[found.training]
    classes = len(found.class_names)
    recipe = Recipe.paper(backbone, max(1, round(len(rows) / classes)))
    try:
        head = train_head(rows, labels, classes, recipe, seed)
    except ProtocolError as error:
        raise DataError(f"no head can be trained on {str(folder)!r}: {error.text}") from error
    counts = tuple(np.bincount(labels, minlength=classes).tolist())
    made = datetime.now(UTC).isoformat(timespec="seconds")
    card = HeadCard(
        name, backbone, weights or "", network.fingerprint, network.image_size, found.class_names, counts, made
    )
    longest = float(np.linalg.norm(rows.astype(np.float64), axis=1).max())
    trained = Trained(card, head, longest, _accuracy(head, features[found.test], found.labels[found.test]))
    _save(out, trained, seed)
    return trained


def _checked_name(name: str) -> str:
    try:
        check_name(name, "the name of a head")
    except MessageError as error:
        raise ParameterError(f"{error.text}; see --name") from error
    return name


def _loaded(backbone: str, weights: str | None, device: str) -> Backbone:
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    if device == "cuda" and pick_device("auto") != "cuda":
        raise ParameterError("device 'cuda' is not allowed: no GPU is found (allowed: auto, cpu)")
    return load_backbone(backbone, weights, pick_device(device))


def _accuracy(head: LinearHead, features: FloatArray, labels: IntArray) -> Accuracy | None:
    if not len(labels):
        return None
    right = int((head.logits(features).argmax(axis=1) == labels).sum())
    return Accuracy(right, len(labels), *clopper_pearson(right, len(labels)))


# ---- files ---------------------------------------------------------------------------------------------------------


def _save(folder: Path, trained: Trained, seed: int) -> None:
    """The weights last: a folder with them is complete."""
    tensors = {"weight": trained.head.weight, "bias": trained.head.bias}
    # One entry, because safetensors writes several in a random order.
    more = {"name": trained.card.name, "seed": seed, "longest_features": trained.longest}
    data = save(tensors, {_SECRETS: json.dumps(more, sort_keys=True)})
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make folder {str(folder)!r}: {error.strerror}") from error
    write_file(folder / CARD, f"{json.dumps(asdict(trained.card), indent=1)}\n".encode())
    write_file(folder / WEIGHTS, data)


def load_trained(folder: Path) -> Trained:
    """Read what `train` wrote.

    Raises:
        DataError: a file is missing, damaged or another head's, or others may read the weights.
    """
    card, path = load_card(folder / CARD), folder / WEIGHTS
    check_private(path)
    try:
        with safe_open(path, framework="np") as file:
            more = json.loads((file.metadata() or {})[_SECRETS])
            head = LinearHead(file.get_tensor("weight"), file.get_tensor("bias"))
        name, longest = str(more["name"]), float(more["longest_features"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, ProtocolError) as error:
        raise DataError(f"{str(path)!r} holds no head: {error}") from error
    if name != card.name or head.classes != len(card.class_names):
        raise DataError(f"{str(path)!r} is of another head than the {CARD} beside it")
    return Trained(card, head, longest)


# ---- encrypting ----------------------------------------------------------------------------------------------------


def encrypt(folder: Path, trained: Trained, public: PublicMaterial) -> EncryptedFiles:
    """Encrypt a head, with a tag where the plan has room for one, and write what is for others into its folder.

    Raises:
        DataError: the folder cannot be written.
        ParameterError: the key was made for heads of another kind.
    """
    card, head = trained.card, trained.head
    tagged = _fits(public, trained)
    payload, scale, tag = encrypted_head(make_encryptor(public), card.name, head, card.backbone_fingerprint, tagged)
    notice = HeadNotice(card.name, head_fingerprint(payload), True, scale, head.classes, payload.key_fingerprint, tag)
    files = EncryptedFiles(payload, notice)
    save_encrypted(folder, files)
    return files


def _fits(public: PublicMaterial, trained: Trained) -> bool:
    """Whether the plan has room for a tag; refuses a plan that the head does not fit at all."""
    plan, head = public.plan, trained.head
    key, need = f"key {public.fingerprint[:12]!r}", f"--features {head.features} --classes {head.classes}"
    if plan.scheme == "plain":
        raise ParameterError(f"{key} is of scheme 'plain', which encrypts nothing (allowed: bfv, ckks)")
    if plan.hidden:
        raise ParameterError(f"{key} is for heads with hidden layers {list(plan.hidden)}; this one is linear")
    if plan.features != head.features:
        raise ParameterError(
            f"{key} is for heads of {plan.features} features; head {trained.card.name!r} has {head.features} "
            f"(needed: `rhe keys new {need}`)"
        )
    if plan.classes == head.classes + 1 and plan.scheme == NOISE_CHECKED:
        return True
    if plan.classes != head.classes:
        raise ParameterError(
            f"{key} is for heads of {plan.classes} classes under scheme {plan.scheme!r}; "
            f"head {trained.card.name!r} has {head.classes} "
            f"(needed: `rhe keys new {need}`)"
        )
    return False
