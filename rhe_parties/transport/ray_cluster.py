"""Joining a Ray cluster, or starting one on this machine: the same for parties and for jobs."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from rhe_parties.errors import ParameterError, TransportError

__all__ = ["connect", "ray_options"]

_CONNECT_SECONDS = 5.0
# What crosses a border goes through the store only for as long as it is handled.
_OBJECT_STORE_BYTES = 512 * 2**20
# Resources that Ray knows by an argument of their own; all others are custom ones.
_BUILT_IN = ("num_cpus", "num_gpus", "memory")


def connect(address: str | None, namespace: str, cpus: int | None = None) -> bool:
    """Join the cluster at `address`, or start one on this machine (None), with `cpus` cores (None: all there are).

    Returns:
        whether this call opened the connection, so that the caller is to close it; false where there was one.

    Raises:
        ParameterError: nobody listens at the address.
        TransportError: Ray does not start, or refuses.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A process that was given no GPU share must not see one.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    arguments: dict[str, Any] = {
        "namespace": namespace,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "ignore_reinit_error": False,
    }
    if address is None:
        arguments |= {
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "address": "local",
            "num_cpus": cpus,
        }
    else:
        _check_reachable(address)
        arguments["address"] = address
    try:
        ray.init(**arguments)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        where = f"join the Ray cluster at {address!r}" if address else "start Ray"
        raise TransportError("ray", f"cannot {where}: {str(error).splitlines()[0]}") from error
    return True


def ray_options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Resources by name as Ray's own arguments of tasks and actors."""
    custom = {name: amount for name, amount in resources.items() if name not in _BUILT_IN}
    known: dict[str, Any] = {name: amount for name, amount in resources.items() if name in _BUILT_IN}
    return known | {"resources": custom or None}


def _check_reachable(address: str) -> None:
    """Ask for a TCP connection first: Ray itself tries for more than ten minutes before it gives up.

    Raises:
        ParameterError: nobody listens there, or the address is none.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if address in ("auto", "local") or not host:
        return  # Ray's own keywords and schemes
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
            pass
    except (OSError, ValueError) as error:
        raise ParameterError(
            f"no Ray cluster answers at address={address!r} ({error}); `ray start --head` prints the address"
        ) from error
