"""Who a certificate speaks for: deployment, role and name, as the one URI `rhe://DEPLOYMENT/ROLE/NAME` in it.

Nothing else in a certificate counts: not its subject, nor the address that it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from rhe_parties.errors import CredentialsError, unknown_name
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST

__all__ = ["CLIENT", "OPERATOR", "ROLES", "SERVERS", "Identity", "check_label", "end_of", "identity_of", "serial_of"]

CLIENT = "client"
OPERATOR = "operator"
SERVERS = (MODEL_HOST, KEY_HOLDER)
ROLES = (*SERVERS, DATA_OWNER, OPERATOR, CLIENT)

_SCHEME = "rhe://"
# A label of a domain name: these names become part of one.
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_label(value: str, what: str) -> None:
    """Refuse a name of a deployment or client that cannot stand in a certificate.

    Raises:
        CredentialsError: it is named, and what is allowed.
    """
    if not _LABEL.fullmatch(value):
        raise CredentialsError(
            f"{what} {value[:80]!r} is not allowed (allowed: 1 to 63 of a-z, 0-9 and -, no - at either end)"
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """A party of a deployment; `name` is the role itself for all but clients, and may be left out for them.

    Raises:
        ParameterError: the role is unknown.
        CredentialsError: a name is not allowed, or a role has another name than its own.
    """

    deployment: str
    role: str
    name: str = ""

    def __post_init__(self) -> None:
        check_label(self.deployment, "deployment name")
        if self.role not in ROLES:
            raise unknown_name("role", self.role, ROLES)
        if self.role == CLIENT:
            check_label(self.name, "client name")
        elif self.name not in ("", self.role):
            raise CredentialsError(f"name {self.name[:80]!r} is not allowed: there is one {self.role} in a deployment")
        object.__setattr__(self, "name", self.name or self.role)

    @property
    def party(self) -> str:
        """What it is called on envelopes."""
        if self.role == CLIENT:
            return f"{CLIENT}:{self.name}"
        return LABORATORY if self.role == OPERATOR else self.role

    @property
    def uri(self) -> str:
        """What stands for it in its certificate."""
        return f"{_SCHEME}{self.deployment}/{self.role}/{self.name}"

    @property
    def server_name(self) -> str:
        """The DNS name in a server's certificate, which whoever dials it checks; "" for those that nobody dials."""
        return f"{self.role}.{self.deployment}.rhe.internal" if self.role in SERVERS else ""


def identity_of(source: bytes | Iterable[str]) -> Identity:
    """Whom a certificate speaks for. That its authority is the right one must have been checked: TLS does so.

    Args:
        source: a certificate in PEM, or its subject alternative names as strings.

    Raises:
        CredentialsError: no certificate, not exactly one `rhe://` name, or any other name than this role's own.
    """
    names = _names(source) if isinstance(source, bytes) else list(source)
    uris = [name for name in names if name.startswith(_SCHEME)]
    if len(uris) != 1:
        raise CredentialsError(f"the certificate holds {len(uris)} names {_SCHEME}DEPLOYMENT/ROLE/NAME; one is needed")
    parts = uris[0].removeprefix(_SCHEME).split("/")
    if len(parts) != 3 or not parts[2]:
        raise CredentialsError(f"the certificate's name {uris[0][:200]!r} is not {_SCHEME}DEPLOYMENT/ROLE/NAME")
    identity = Identity(*parts)
    others = [name for name in names if name not in (identity.uri, identity.server_name)]
    if others:
        raise CredentialsError(f"the certificate of {identity.uri} also holds the name {others[0][:200]!r}")
    return identity


def serial_of(pem: bytes) -> int:
    """The serial number of a certificate in PEM.

    Raises:
        CredentialsError: it is none.
    """
    return _certificate(pem).serial_number


def end_of(pem: bytes) -> float:
    """When a certificate in PEM ends, in seconds since 1970.

    Raises:
        CredentialsError: it is none.
    """
    return _certificate(pem).not_valid_after_utc.timestamp()


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CredentialsError("this is no certificate in PEM") from error


def _names(pem: bytes) -> list[str]:
    """All subject alternative names; those of kinds that this project never writes by their kind alone."""
    try:
        extension = _certificate(pem).extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except (x509.ExtensionNotFound, ValueError):
        return []
    if not isinstance(extension.value, x509.SubjectAlternativeName):
        return []
    known = (x509.UniformResourceIdentifier, x509.DNSName)
    return [name.value if isinstance(name, known) else type(name).__name__ for name in extension.value]
