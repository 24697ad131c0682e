"""`rhe serve`: a party for real clients, in the foreground until SIGTERM or Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhe_parties.errors import ParameterError

__all__ = ["serve"]

serve = typer.Typer(
    name="serve",
    help="Serve a party over gRPC with mutual TLS. Flags go before the environment, that before --config.",
    no_args_is_help=True,
)

Config = Annotated[Path | None, typer.Option("--config", help="TOML file; its names are those of the flags, with _.")]
Listen = Annotated[str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen.")]
Certificates = Annotated[
    Path | None, typer.Option("--certificates", help="This party's folder from `rhe certificates new`.")
]
Plaintext = Annotated[
    bool | None, typer.Option("--plaintext", help="No certificates; on this machine's own addresses alone.")
]
Deployment = Annotated[str | None, typer.Option("--deployment", help="Its name; needed with --plaintext.")]
Revoked = Annotated[Path | None, typer.Option("--revoked", help="List of certificates that are refused.")]
Metrics = Annotated[str | None, typer.Option("--metrics", metavar="HOST:PORT", help="Where Prometheus may read.")]
Log = Annotated[str | None, typer.Option("--log", help="json or text.")]


@serve.command("model-host")
def model_host_command(
    context: typer.Context,
    config: Config = None,
    listen: Listen = None,
    certificates: Certificates = None,
    plaintext: Plaintext = None,
    deployment: Deployment = None,
    revoked: Revoked = None,
    metrics: Metrics = None,
    log: Log = None,
    state: Annotated[Path | None, typer.Option("--state", help="Folder where installed heads are kept.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="See `rhe list backbones`.")] = None,
    weights: Annotated[str | None, typer.Option("--weights", help="File of weights, or random:SEED.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda or auto.")] = None,
    gather_ms: Annotated[
        float | None, typer.Option("--gather-ms", help="How long a request may wait for others of the same head.")
    ] = None,
) -> None:
    """The untrusted host: runs backbone and encrypted heads; never has a key."""
    from rhe_parties.service.grpc_hosting import serve_model_host
    from rhe_parties.service.logs import start_log
    from rhe_parties.service.settings import HostSettings, read_settings

    settings = read_settings(HostSettings, {**context.params, "config": None}, config)
    start_log(settings.log)
    serve_model_host(settings)


@serve.command("key-holder")
def key_holder_command(
    context: typer.Context,
    config: Config = None,
    listen: Listen = None,
    certificates: Certificates = None,
    plaintext: Plaintext = None,
    deployment: Deployment = None,
    revoked: Revoked = None,
    metrics: Metrics = None,
    log: Log = None,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST:PORT", help="The model host.")] = None,
    vault: Annotated[Path | None, typer.Option("--vault", help="Folder that holds the key.")] = None,
    passphrase_file: Annotated[Path | None, typer.Option("--passphrase-file", help="The vault's passphrase.")] = None,
    ledger: Annotated[Path | None, typer.Option("--ledger", help="File of audit log, budgets and used ids.")] = None,
    client: Annotated[
        list[str] | None,
        typer.Option("--client", metavar="NAME=BUDGET", help="Images of each head it may ask about; 0: all."),
    ] = None,
    release: Annotated[str | None, typer.Option("--release", help="What is released of a decision.")] = None,
) -> None:
    """The key holder: has the key, asks the host, decides for the clients that it admits."""
    from rhe_parties.service.grpc_hosting import serve_key_holder
    from rhe_parties.service.logs import start_log
    from rhe_parties.service.settings import KeyHolderSettings, read_settings

    clients = None if client is None else dict(map(_budget, client))
    flags = {**context.params, "client": None, "clients": clients, "config": None}
    settings = read_settings(KeyHolderSettings, flags, config)
    start_log(settings.log)
    serve_key_holder(settings)


def _budget(text: str) -> tuple[str, int]:
    name, _, budget = text.partition("=")
    if not name or not budget.isdecimal():
        raise ParameterError(f"client {text[:80]!r} is not allowed (allowed: NAME=BUDGET, such as alice=1000)")
    return name, int(budget)
