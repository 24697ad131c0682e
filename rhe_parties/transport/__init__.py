"""How envelopes move: always as bytes, whichever transport carries them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rhe_parties.errors import unknown_name
from rhe_parties.transport.base import PartyFailure, Switchboard, Transport
from rhe_parties.transport.jobs import Job, JobEnd
from rhe_parties.transport.options import RayOptions

if TYPE_CHECKING:
    from rhe_parties.transport.ray_jobs import RayJobs

__all__ = [
    "TRANSPORTS",
    "Job",
    "JobEnd",
    "PartyFailure",
    "RayOptions",
    "Switchboard",
    "Transport",
    "make_jobs",
    "make_transport",
]

TRANSPORTS = ("local", "ray", "grpc")


def make_transport(name: str, ray_options: RayOptions | None = None) -> Transport:
    """A transport by name; its code is imported only when it is asked for.

    Raises:
        ParameterError: unknown name.
    """
    if name == "local":
        from rhe_parties.transport.local import LocalTransport

        return LocalTransport()
    if name == "ray":
        if ray_options is not None and ray_options.address is not None:
            _offer_token()
        from rhe_parties.transport.ray_actors import RayTransport

        return RayTransport(ray_options or RayOptions())
    if name == "grpc":
        from rhe_parties.transport.grpc_parties import GrpcTransport

        return GrpcTransport()
    raise unknown_name("transport", name, TRANSPORTS)


def make_jobs(address: str | None, parallel: int | None) -> RayJobs:
    """Jobs on the Ray cluster at `address`, or on one started on this machine; see `RayJobs`.

    Raises:
        ParameterError, TransportError: nobody listens there, or Ray does not start.
    """
    if address is not None:
        _offer_token()
    from rhe_parties.transport.ray_jobs import RayJobs

    return RayJobs(address, parallel)


def _offer_token() -> None:
    """Newer Rays guard a cluster with a token; where this user has one, have it presented.

    Ray reads the setting when it is imported, so this comes before.
    """
    held = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if held or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
