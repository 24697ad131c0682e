"""`rhe bench serve`: served heads under load."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["serve_command"]


def serve_command(
    images: Annotated[
        bool, typer.Option("--images/--features", help="Send images through the backbone, or its features.")
    ] = False,
    backbone: Annotated[
        str, typer.Option("--backbone", help="With random weights; for features only its width counts.")
    ] = "efficientnet_b0",
    classes: Annotated[int, typer.Option("--classes", help="Classes K.")] = 10,
    batch: Annotated[int | None, typer.Option("--batch", help="Inputs in one request (default: 32; soak: 1).")] = None,
    gather: Annotated[
        int, typer.Option("--gather", help="Inputs for which the encrypted head is laid out; the host gathers them.")
    ] = 128,
    gather_ms: Annotated[
        float, typer.Option("--gather-ms", help="How long a request may wait for others of the same head.")
    ] = 5.0,
    clients: Annotated[
        int | None, typer.Option("--clients", help="Clients at full load (default: 16; soak: 1000).")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="Of each measurement (default: 10; soak: 60).")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="How often both heads are measured in turn.")] = 5,
    tls: Annotated[bool, typer.Option("--tls/--no-tls", help="Mutual TLS, or plaintext.")] = True,
    soak: Annotated[bool, typer.Option("--soak", help="Many clients at once; errors and memory.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Serve a plain and an encrypted head on this machine and compare requests per second and times of answers."""
    from rhe_parties.bench.serve import ServeSoak, ServeWishes, bench_serve, bench_soak
    from rhe_parties.bench.serve_tables import show_serve_bench, show_serve_soak

    wishes = ServeWishes(
        backbone, images, classes,
        batch=(1 if soak else 32) if batch is None else batch,
        gather=gather, gather_ms=gather_ms,
        clients=(1000 if soak else 16) if clients is None else clients,
        seconds=(60.0 if soak else 10.0) if seconds is None else seconds,
        rounds=rounds, tls=tls,
    )  # fmt: skip
    console = Console(highlight=False)
    with Console(stderr=True, highlight=False).status("starting") as status:
        result = bench_soak(wishes, status.update) if soak else bench_serve(wishes, status.update)
    if json:
        typer.echo(json_module.dumps(result.to_json(), indent=1))
    elif isinstance(result, ServeSoak):
        show_serve_soak(result, console)
    else:
        show_serve_bench(result, console)
