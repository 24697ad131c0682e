"""`rhe classify`: a client's images, decided by the host's backbone and an encrypted head, read by the key holder."""

from __future__ import annotations

import asyncio
import json as json_module
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from rhe_parties.cli.linking import (
    CertificatesFolder,
    DeploymentName,
    KeyHolderAddress,
    Plaintext,
    Showing,
    access_for,
)
from rhe_parties.errors import FailureCode, ParameterError, ProtocolError, RheError
from rhe_parties.threat.model import MODEL_HOST

if TYPE_CHECKING:
    from rhe_parties.messages.payloads import Decision
    from rhe_parties.service.grpc_errands import Access
    from rhe_parties.service.head_files import HeadCard
    from rhe_parties.types import UInt8Array

__all__ = ["classify_command"]

_MOST = 4096


def classify_command(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    key_holder: KeyHolderAddress,
    head: Annotated[str, typer.Option("--head", help="Id of the head.")],
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="HOST:PORT", help="Ask the model host first whether it serves at all."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="The head's head.json: names of classes, and size of images.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Side in pixels, without --labels (default: 32, strokenet's).")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Images in one request.")] = 64,
    certificates: CertificatesFolder = None,
    plaintext: Plaintext = False,
    deployment: DeploymentName = None,
    client: Annotated[
        str | None, typer.Option("--client", help="With --plaintext: as which client (default: as the operator).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Have images decided; the host sees them, and never the decisions."""
    from rhe_parties.service.identity import CLIENT, OPERATOR

    if not 1 <= batch <= _MOST:
        raise ParameterError(f"--batch {batch} is not allowed (allowed: 1 to {_MOST})")
    card = _card(labels, head)
    size = _size(card, image_size)
    addresses = [key_holder] if host is None else [key_holder, host]
    access = access_for(Showing(certificates, plaintext, deployment), addresses, OPERATOR, CLIENT, client=client)
    # All of them before anything is asked: a file that cannot be read must not cost a part of the budget.
    batches = _batches(images, size, batch)
    decided: list[Decision] = []
    error: RheError | None = None
    try:
        asyncio.run(_collect(access, host, key_holder, head, batches, decided))
    except RheError as caught:
        error = caught
    _print(images, decided, card, head, json)
    if isinstance(error, ProtocolError) and error.code == FailureCode.NOT_INSTALLED:
        raise ParameterError(f"--head {head!r} is not allowed: {error.text}") from error
    if error is not None:
        raise error


def _card(labels: Path | None, head: str) -> HeadCard | None:
    from rhe_parties.service.head_files import load_card

    if labels is None:
        return None
    card = load_card(labels)
    if card.name != head:
        raise ParameterError(f"--labels {str(labels)!r} describes head {card.name!r}, not {head!r}")
    return card


def _size(card: HeadCard | None, given: int | None) -> int:
    from rhe_parties.service.head_files import MAX_SIZE

    if card is not None:
        if given not in (None, card.image_size):
            raise ParameterError(f"--image-size {given} is not allowed: --labels says {card.image_size}")
        return card.image_size
    if given is None:
        from rhe_parties.model.strokenet import IMAGE_SIZE  # and with it torch, which a client needs for nothing else

        return IMAGE_SIZE
    if not 1 <= given <= MAX_SIZE:
        raise ParameterError(f"--image-size {given} is not allowed (allowed: 1 to {MAX_SIZE})")
    return given


def _batches(paths: list[Path], size: int, batch: int) -> list[UInt8Array]:
    """The images as `read_folder` reads them."""
    from rhe_parties.data.imagefolder import read_image, stack_images

    images = stack_images([read_image(path, size) for path in paths])
    return [images[start : start + batch] for start in range(0, len(images), batch)]


async def _collect(
    access: Access, host: str | None, key_holder: str, head: str, batches: Iterable[UInt8Array], decided: list[Decision]
) -> None:
    from rhe_parties.service.grpc_errands import check_health, decisions

    if host is not None:
        await check_health(access, MODEL_HOST, host)
    async for decision in decisions(access, key_holder, head, batches):
        decided.append(decision)


def _print(paths: list[Path], decided: list[Decision], card: HeadCard | None, head: str, json: bool) -> None:
    classes = [int(number) for decision in decided for number in decision.classes]
    saturated = sum(decision.saturated for decision in decided)
    rows = [(str(path), number, _name(card, number)) for path, number in zip(paths, classes, strict=False)]
    if json:
        keys = ("file", "class", "name")
        summary = {
            "head": head,
            "complete": len(rows) == len(paths),
            "used": decided[-1].used if decided else None,
            "saturated": saturated,
            "decisions": [dict(zip(keys, row, strict=True)) for row in rows],
        }
        typer.echo(json_module.dumps(summary, indent=1))
        return
    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("File", overflow="fold")
    table.add_column("Class", justify="right")
    if card is not None:
        table.add_column("Name", overflow="fold")
    for path, number, name in rows:
        table.add_row(path, str(number), *([name] if card is not None else []))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=150, highlight=False)  # a file or a log has no width of its own
    console.print(table, markup=False)
    typer.echo(f"{len(rows)} of {len(paths)} images decided; {decided[-1].used} of this head so far")
    if saturated:
        typer.echo(f"{saturated} had features longer than the key's plan allows, and were scaled down to that")


def _name(card: HeadCard | None, number: int) -> str:
    """Of a class; "" where the head has more classes by now than its head.json."""
    return card.class_names[number] if card is not None and 0 <= number < len(card.class_names) else ""
