"""Who is let in: the certificate of the other end says who it is, and the role what it may open a link for."""

from __future__ import annotations

import functools
import ipaddress
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from rhe_parties.errors import CredentialsError, ParameterError
from rhe_parties.service.certificates import Credentials
from rhe_parties.service.grpc_links import PARTY_KEY, Link
from rhe_parties.service.grpc_server import Stranger
from rhe_parties.service.identity import CLIENT, OPERATOR, Identity, end_of, identity_of, serial_of
from rhe_parties.service.revocation import RevocationList
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST

__all__ = ["MAY_LINK", "Gate", "check_plaintext", "server_credentials"]

#: Roles that may open a link to each server. Nobody else speaks to a host than its key holder and the owner of heads.
MAY_LINK = {MODEL_HOST: (KEY_HOLDER, DATA_OWNER), KEY_HOLDER: (DATA_OWNER, CLIENT, OPERATOR)}


class Gate:
    """Lets callers in by their certificates, or, in plaintext on one machine, by what they say.

    Args:
        server: who is served.
        deployment: its name; certificates of others are refused though the same authority may have signed them.
        plaintext: whether there are no certificates.
        revoked: serial numbers that are refused.
        note: called with (event, who, what).
    """

    def __init__(
        self,
        server: str,
        deployment: str,
        plaintext: bool,
        revoked: Path | None,
        note: Callable[[str, str, str], None],
    ) -> None:
        self._server, self._deployment, self._plaintext, self._note = server, deployment, plaintext, note
        self._revoked = None if revoked is None else RevocationList(revoked)

    def admit(self, context: aio.ServicerContext[Any, Any]) -> Link:
        """The link of whoever called.

        Raises:
            Stranger: it is nobody who may open one.
        """
        try:
            identity, objection = (self._claimed(context), str) if self._plaintext else self._proven(context)
            if identity.deployment != self._deployment:
                raise CredentialsError(f"the certificate is for deployment {identity.deployment!r}")
            if identity.role not in MAY_LINK[self._server]:
                allowed = ", ".join(MAY_LINK[self._server])
                raise CredentialsError(f"{identity.party} may not link to {self._server} (allowed: {allowed})")
        except (CredentialsError, ParameterError) as error:
            self._note("connection refused", str(context.peer())[:80], str(error))
            raise Stranger(str(error)) from error
        return Link(identity.party, identity.role == KEY_HOLDER, objection)

    def _proven(self, context: aio.ServicerContext[Any, Any]) -> tuple[Identity, Callable[[], str]]:
        found = list(context.auth_context().get("x509_pem_cert") or ())
        if not found:
            raise CredentialsError("no certificate was shown")
        identity = identity_of(found[0])
        objection = functools.partial(self._objection, identity.party, serial_of(found[0]), end_of(found[0]))
        if objection():
            raise CredentialsError(objection())
        return identity, objection

    def _objection(self, party: str, serial: int, end: float) -> str:
        """TLS looks at a certificate once; a link outlives that."""
        if self._revoked is not None and self._revoked.holds(serial):
            return f"the certificate of {party} was revoked"
        return f"the certificate of {party} has expired" if time.time() > end else ""

    def _claimed(self, context: aio.ServicerContext[Any, Any]) -> Identity:
        metadata = context.invocation_metadata() or ()
        claimed = [str(value) for key, value in metadata if key == PARTY_KEY]
        if len(claimed) != 1:
            raise CredentialsError(f"plaintext callers name themselves under {PARTY_KEY!r}; {len(claimed)} names came")
        role, _, name = claimed[0].partition(":")
        return Identity(self._deployment, OPERATOR if role == LABORATORY else role, name)


def server_credentials(credentials: Credentials) -> grpc.ServerCredentials:
    """For a server that takes only callers whose certificates its authority signed."""
    pair = [(credentials.key, credentials.certificate)]
    return grpc.ssl_server_credentials(pair, credentials.authority, require_client_auth=True)


def check_plaintext(address: str) -> None:
    """Refuse to go without certificates anywhere but on this machine.

    Raises:
        ParameterError: the address is another one's, or all of this machine's.
    """
    host = address.rpartition(":")[0].strip("[]")
    try:
        fine = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        fine = address.startswith("unix:")
    if not fine:
        raise ParameterError(
            f"plaintext is not allowed at {address!r} (allowed: 127.0.0.1, ::1, localhost); leave --plaintext out and "
            "give certificates"
        )
