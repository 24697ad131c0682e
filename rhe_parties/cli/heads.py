"""`rhe head`: the owner's heads, trained on its own images, encrypted, and served by others.

Torch, SEAL and gRPC are loaded by the commands that need them, not with the command line.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhe_parties.cli.linking import (
    CertificatesFolder,
    DeploymentName,
    HostAddress,
    KeyHolderAddress,
    Plaintext,
    Showing,
    access_for,
)
from rhe_parties.errors import FailureCode, ParameterError, ProtocolError
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, MODEL_HOST

if TYPE_CHECKING:
    from rhe_parties.he.scheme import PublicMaterial
    from rhe_parties.service.grpc_errands import Access
    from rhe_parties.service.owner import Trained

__all__ = ["heads"]

heads = typer.Typer(
    name="head", help="Train, encrypt and install your own heads: the data owner's side.", no_args_is_help=True
)

HeadFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the head, of `rhe head train`.")]

_KEEP = (
    "Keep {path} to yourself: whoever has these weights can tell the training images from others and rebuild many "
    "of them. Give others {card} alone."
)


@heads.command("train")
def train_command(
    folder: Annotated[
        Path, typer.Argument(help="Your images: one folder per class, or train/ and test/ with such folders.")
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder for the head.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Id under which it will be served (default: name of the folder).")
    ] = None,
    backbone: Annotated[str, typer.Option("--backbone", help="As the host has it; see `rhe list backbones`.")] = (
        "strokenet"
    ),
    weights: Annotated[str | None, typer.Option("--weights", help="File of the backbone's weights.")] = None,
    images_per_class: Annotated[
        int | None, typer.Option("--images-per-class", help="Train on so many of each class (default: all).")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the training; kept secret with the weights (default: random).")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train a linear head on your images by the paper's recipe; nothing leaves this machine."""
    from rhe_parties.service.head_files import CARD, WEIGHTS
    from rhe_parties.service.owner import train

    trained = train(folder, out, name, backbone, weights, images_per_class, seed, device)
    for line in _told(trained, images_per_class):
        typer.echo(line)
    typer.echo(_KEEP.format(path=out / WEIGHTS, card=out / CARD))


def _told(trained: Trained, wanted: int | None) -> list[str]:
    card, head, accuracy = trained.card, trained.head, trained.accuracy
    counts = sorted(set(card.images_per_class))
    each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    which = f"all images, {each} of each class" if wanted is None else f"{each} images of each class"
    lines = [
        f"Trained head {card.name!r} of {head.classes} classes on {which} ({card.backbone}, {head.features} features)"
    ]
    if accuracy is None:
        lines.append("Accuracy: not measured, as no image is left to test on (see --images-per-class, or test/)")
    else:
        share, low, high = (100 * value for value in (accuracy.right / accuracy.images, accuracy.low, accuracy.high))
        lines.append(
            f"Accuracy: {share:.1f} % of {accuracy.images} test images (95 % interval {low:.1f} to {high:.1f} %)"
        )
    lines.append(
        f"Its key holder needs `rhe keys new --features {head.features} --classes {head.classes}`, which plans a class "
        "more for a tag by which a lying host is found out"
    )
    return lines


@heads.command("encrypt")
def encrypt_command(
    folder: HeadFolder,
    public: Annotated[
        Path | None, typer.Option("--public", help="File of `rhe keys export-public`, from the key holder.")
    ] = None,
    key_holder: Annotated[
        str | None, typer.Option("--key-holder", metavar="HOST:PORT", help="Ask the key holder itself for it.")
    ] = None,
    certificates: CertificatesFolder = None,
    plaintext: Plaintext = False,
    deployment: DeploymentName = None,
) -> None:
    """Encrypt a head for the key holder's key; the host gets encrypted.binpb, the key holder notice.binpb."""
    from rhe_parties.service.head_files import read_public
    from rhe_parties.service.owner import load_trained

    if (public is None) == (key_holder is None):
        raise ParameterError("give either --public FILE or --key-holder HOST:PORT")
    trained = load_trained(folder)
    if public is not None:
        if plaintext or certificates is not None or deployment is not None:
            raise ParameterError("--certificates, --plaintext and --deployment are for --key-holder, not for --public")
        material = read_public(public)
    else:
        access = access_for(Showing(certificates, plaintext, deployment), [key_holder or ""], DATA_OWNER)
        material = _fetched(access, key_holder or "")
    _encrypt(folder, trained, material)


def _fetched(access: Access, key_holder: str) -> PublicMaterial:
    from rhe_parties.service.grpc_errands import fetch_public

    return asyncio.run(fetch_public(access, key_holder))


def _encrypt(folder: Path, trained: Trained, public: PublicMaterial) -> None:
    from rhe_parties.service.owner import encrypt

    made = encrypt(folder, trained, public)
    size = sum(map(len, made.head.ciphertexts))
    tag = "with a tag" if made.notice.tag.size else "without a tag, as the key has no class to spare for one"
    typer.echo(f"Encrypted head {made.head.head_id!r} for key {public.fingerprint[:12]}: {size:,} bytes, {tag}")
    if trained.longest > public.plan.feature_norm:
        # What the key holder is asked for tells no more of the images than a power of two.
        enough = 2.0 ** math.ceil(math.log2(trained.longest))
        typer.echo(
            f"Features of an image trained on have length {trained.longest:.1f}; the key's plan scales what is above "
            f"{public.plan.feature_norm:g} down to that, which can change decisions "
            f"(a key without: `rhe keys new --feature-norm {enough:g}`)"
        )


@heads.command("install")
def install_command(
    folder: HeadFolder,
    host: HostAddress,
    key_holder: KeyHolderAddress,
    certificates: CertificatesFolder = None,
    plaintext: Plaintext = False,
    deployment: DeploymentName = None,
) -> None:
    """Have the host serve an encrypted head, and the key holder decide on it."""
    access = access_for(Showing(certificates, plaintext, deployment), [host, key_holder], DATA_OWNER)
    _install(folder, access, host, key_holder)


def _install(folder: Path, access: Access, host: str, key_holder: str) -> None:
    from rhe_parties.service.grpc_errands import install
    from rhe_parties.service.head_files import load_encrypted

    files = load_encrypted(folder)
    try:
        asyncio.run(install(access, host, key_holder, files.head, files.notice))
    except ProtocolError as error:
        if error.code == FailureCode.WRONG_KEY:
            raise ProtocolError(error.code, f"{error.text}; `rhe head renew` encrypts it anew") from error
        raise
    head = files.head
    typer.echo(
        f"{access.identity.deployment} serves head {head.head_id!r} (fingerprint {files.notice.fingerprint[:12]}) "
        f"under key {head.key_fingerprint[:12]}: host {host}, key holder {key_holder}"
    )


@heads.command("renew")
def renew_command(
    folder: HeadFolder,
    host: HostAddress,
    key_holder: KeyHolderAddress,
    certificates: CertificatesFolder = None,
    plaintext: Plaintext = False,
    deployment: DeploymentName = None,
) -> None:
    """Encrypt a head for the key of today and install it: after a rotation."""
    from rhe_parties.service.owner import load_trained

    trained = load_trained(folder)
    access = access_for(Showing(certificates, plaintext, deployment), [host, key_holder], DATA_OWNER)
    _encrypt(folder, trained, _fetched(access, key_holder))
    _install(folder, access, host, key_holder)


@heads.command("revoke")
def revoke_command(
    name: Annotated[str, typer.Argument(help="Id of the head.")],
    host: HostAddress,
    key_holder: KeyHolderAddress,
    certificates: CertificatesFolder = None,
    plaintext: Plaintext = False,
    deployment: DeploymentName = None,
) -> None:
    """Have a head served no more, by key holder and host; one is told though the other is down."""
    from rhe_parties.service.grpc_errands import revoke

    access = access_for(Showing(certificates, plaintext, deployment), [host, key_holder], DATA_OWNER)
    # The key holder first: without it nothing is decided, whatever the host still holds.
    outcomes = asyncio.run(revoke(access, {KEY_HOLDER: key_holder, MODEL_HOST: host}, name))
    failed = False
    for role, outcome in outcomes.items():
        if isinstance(outcome, Exception):
            failed = True
            typer.echo(f"rhe: not revoked: {' '.join(str(outcome).split())}", err=True)
        elif outcome:
            typer.echo(f"{role}: head {name!r} is revoked")
        else:
            typer.echo(f"{role}: did not serve head {name!r}")
    if failed:
        raise typer.Exit(1)
    if not any(outcomes.values()):
        raise ParameterError(f"head {name!r} was served by neither {KEY_HOLDER} nor {MODEL_HOST}")
