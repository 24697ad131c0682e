"""Options of every command that speaks to a deployment's servers: where they are, and who asks.

gRPC is loaded when a command opens its first link, not with the command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhe_parties.errors import ParameterError

if TYPE_CHECKING:
    from rhe_parties.service.grpc_errands import Access
    from rhe_parties.service.identity import Identity

__all__ = [
    "CertificatesFolder",
    "DeploymentName",
    "HostAddress",
    "KeyHolderAddress",
    "Plaintext",
    "Showing",
    "access_for",
]

KeyHolderAddress = Annotated[str, typer.Option("--key-holder", metavar="HOST:PORT", help="Where the key holder is.")]
HostAddress = Annotated[str, typer.Option("--host", metavar="HOST:PORT", help="Where the model host is.")]
CertificatesFolder = Annotated[
    Path | None,
    typer.Option("--certificates", help="Own folder with certificate, key and authority, of `rhe certificates new`."),
]
Plaintext = Annotated[
    bool, typer.Option("--plaintext", help="Without certificates: servers on this very machine alone, for trying out.")
]
DeploymentName = Annotated[
    str | None, typer.Option("--deployment", help="Name of the deployment; with --plaintext only.")
]


@dataclass(frozen=True)
class Showing:
    """The three options as they were given."""

    certificates: Path | None
    plaintext: bool
    deployment: str | None


def access_for(shown: Showing, addresses: Iterable[str], *roles: str, client: str | None = None) -> Access:
    """Who asks the servers at these addresses.

    Args:
        shown: options of the command.
        addresses: host:port each.
        roles: those that may; in plaintext the first one asks.
        client: in plaintext the name of a client that asks in its place.

    Raises:
        ParameterError: an address is none, plaintext would leave this machine, or the options do not fit together.
        CredentialsError: see `rhe_parties.service.certificates.load_identity`.
    """
    # gRPC's own words on a failed handshake would stand beside the one line that says what it means.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from rhe_parties.service.certificates import load_identity
    from rhe_parties.service.grpc_errands import Access
    from rhe_parties.service.grpc_gate import check_plaintext

    addresses = list(addresses)
    for address in addresses:
        _check_address(address)
    if not shown.plaintext:
        if shown.deployment is not None or client is not None:
            raise ParameterError("--deployment and --client are for --plaintext; a certificate says both itself")
        if shown.certificates is None:
            raise ParameterError(
                "--certificates is missing: give your folder of `rhe certificates new` "
                "(or --plaintext --deployment NAME on one machine)"
            )
        credentials = load_identity(shown.certificates, *roles)
        return Access(credentials.identity, credentials)
    if shown.certificates is not None or shown.deployment is None:
        raise ParameterError("--plaintext needs --deployment NAME, and no --certificates")
    for address in addresses:
        check_plaintext(address)
    return Access(_claimed(shown.deployment, roles[0], client), None)


def _claimed(deployment: str, role: str, client: str | None) -> Identity:
    from rhe_parties.service.identity import CLIENT, Identity

    return Identity(deployment, role) if client is None else Identity(deployment, CLIENT, client)


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if address.startswith("unix:") or (host and port.isdecimal() and 0 < int(port) < 65536):
        return
    raise ParameterError(f"address {address[:80]!r} is not allowed (allowed: HOST:PORT, such as 127.0.0.1:7443)")
