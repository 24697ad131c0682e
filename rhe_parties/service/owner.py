"""The owner's folder of one head: trained here, encrypted here, and what of it may go where.

    head.json            name, classes and backbone: for whoever asks for decisions
    head.safetensors     the weights in the clear, the seed of their training: for nobody else
    encrypted.binpb      the serialised `EncryptedHead`: for the host
    notice.binpb         the serialised `HeadNotice`, with secret scale and tag: for the key holder

Nothing in head.json follows from the training images but how many there were: a hash of the weights would tell a
guess at an image from a wrong one, as training is repeatable.
"""

from __future__ import annotations

import json
import secrets
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rhe_parties.data.imagefolder import read_folder
from rhe_parties.errors import DataError, MessageError, ParameterError, ProtocolError, unknown_name
from rhe_parties.he.scheme import NOISE_CHECKED, PublicMaterial, make_encryptor
from rhe_parties.messages.alone import payload_from, payload_to
from rhe_parties.messages.checks import check_name
from rhe_parties.messages.fingerprints import head_fingerprint
from rhe_parties.messages.payloads import EncryptedHead, HeadNotice
from rhe_parties.messages.public import import_public
from rhe_parties.metrics.intervals import clopper_pearson
from rhe_parties.model.backbone import Backbone, load_backbone
from rhe_parties.model.head import LinearHead, Recipe, train_head
from rhe_parties.parties.build import pick_device
from rhe_parties.parties.encrypting import encrypted_head
from rhe_parties.rng import numpy_stream
from rhe_parties.service.journal import write_durably
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = [
    "CARD",
    "WEIGHTS",
    "Accuracy",
    "EncryptedFiles",
    "HeadCard",
    "Images",
    "Trained",
    "encrypt",
    "load_card",
    "load_encrypted",
    "load_trained",
    "read_images",
    "read_public",
    "train",
]

CARD, WEIGHTS, ENCRYPTED, NOTICE = "head.json", "head.safetensors", "encrypted.binpb", "notice.binpb"
DEVICES = ("auto", "cpu", "cuda")
_SECRETS = "rhe_parties"

T = TypeVar("T")


@dataclass(frozen=True)
class HeadCard:
    """What may be told of a head (head.json).

    Attributes:
        name: id under which it is served.
        backbone, weights: as given to `load_backbone`; weights "" for the usual ones.
        backbone_fingerprint: of that backbone; the host's must be the same.
        image_size: side in pixels at which images are read.
        class_names: in the order of the classes' numbers.
        images_per_class: training images of each class.
        made: when it was trained, ISO 8601, UTC.
    """

    name: str
    backbone: str
    weights: str
    backbone_fingerprint: str
    image_size: int
    class_names: tuple[str, ...]
    images_per_class: tuple[int, ...]
    made: str


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


@dataclass(frozen=True)
class EncryptedFiles:
    """What goes to the host, and what goes to the key holder."""

    head: EncryptedHead
    notice: HeadNotice


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
    _write(folder / CARD, f"{json.dumps(asdict(trained.card), indent=1)}\n".encode())
    _write(folder / WEIGHTS, data)


def _write(path: Path, data: bytes) -> None:
    try:
        write_durably(path, data)
    except OSError as error:
        raise DataError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def load_card(path: Path) -> HeadCard:
    """Read a head.json.

    Raises:
        DataError: it is not there, or is none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if set(values) != {field.name for field in fields(HeadCard)}:
            raise ValueError("its keys are not those of a head.json")
        names, counts = values.pop("class_names"), values.pop("images_per_class")
        card = HeadCard(**values, class_names=tuple(map(str, names)), images_per_class=tuple(map(int, counts)))
        if not isinstance(card.image_size, int) or card.image_size < 1 or len(counts) != len(names):
            raise ValueError("its values do not fit together")
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{str(path)!r} does not describe a head: {error}") from error
    return card


def load_trained(folder: Path) -> Trained:
    """Read what `train` wrote.

    Raises:
        DataError: a file is missing, damaged or another head's, or others may read the weights.
    """
    card, path = load_card(folder / CARD), folder / WEIGHTS
    _check_private(path)
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


def _check_private(path: Path) -> None:
    """Refuse a secret file that others than its owner may read."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if mode & 0o077:
        raise DataError(f"{str(path)!r} is secret and open to others (mode {mode:04o}; needed: 0600 or 0400)")


# ---- encrypting ----------------------------------------------------------------------------------------------------


def read_public(path: Path) -> PublicMaterial:
    """Read what `rhe keys export-public` wrote.

    Raises:
        DataError: it is not there, or is none.
    """
    return _read(path, import_public)


def encrypt(folder: Path, public: PublicMaterial) -> EncryptedFiles:
    """Encrypt the head in `folder`, with a tag where the plan has room for one, and write both files.

    Raises:
        DataError: see `load_trained`; or the folder cannot be written.
        ParameterError: the key was made for heads of another kind.
    """
    trained = load_trained(folder)
    card, head = trained.card, trained.head
    tagged = _fits(public, trained)
    payload, scale, tag = encrypted_head(make_encryptor(public), card.name, head, card.backbone_fingerprint, tagged)
    notice = HeadNotice(card.name, head_fingerprint(payload), True, scale, head.classes, payload.key_fingerprint, tag)
    _write(folder / ENCRYPTED, payload_to(payload))
    _write(folder / NOTICE, payload_to(notice))
    return EncryptedFiles(payload, notice)


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
            f"(needed: `rhe keys new {need}`, or a class more for a tag under {NOISE_CHECKED!r})"
        )
    return False


def load_encrypted(folder: Path) -> EncryptedFiles:
    """Read what `encrypt` wrote.

    Raises:
        DataError: a file is missing or damaged, others may read the notice, or the two do not belong together.
    """
    _check_private(folder / NOTICE)
    head = _read(folder / ENCRYPTED, lambda data: payload_from(data, EncryptedHead))
    notice = _read(folder / NOTICE, lambda data: payload_from(data, HeadNotice))
    if (notice.head_id, notice.fingerprint) != (head.head_id, head_fingerprint(head)):
        raise DataError(f"{ENCRYPTED} and {NOTICE} in {str(folder)!r} do not belong together; encrypt the head again")
    return EncryptedFiles(head, notice)


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except ProtocolError as error:
        raise DataError(f"{str(path)!r} cannot be used: {error.text}") from error
