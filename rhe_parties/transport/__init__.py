"""How envelopes move: always as bytes, whichever transport carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhe_parties.errors import unknown_name
from rhe_parties.transport.base import Switchboard, Transport
from rhe_parties.transport.local import LocalTransport

if TYPE_CHECKING:
    from rhe_parties.transport.ray_actors import RayOptions

__all__ = ["TRANSPORTS", "LocalTransport", "Switchboard", "Transport", "make_transport"]

TRANSPORTS = ("local", "ray")


def make_transport(name: str, ray_options: RayOptions | None = None) -> Transport:
    """A transport by name; Ray is imported only when it is asked for.

    Raises:
        ParameterError: unknown name.
    """
    if name == "local":
        return LocalTransport()
    if name == "ray":
        from rhe_parties.transport.ray_actors import RayOptions, RayTransport

        return RayTransport(ray_options or RayOptions())
    raise unknown_name("transport", name, TRANSPORTS)
