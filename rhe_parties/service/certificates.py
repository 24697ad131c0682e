"""A party's certificate, key and authority as its process loads them: whatever is wrong with them is said at once.

gRPC itself would say "handshake failed" at the first link, and not why.
"""

from __future__ import annotations

import datetime
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from rhe_parties.errors import CredentialsError
from rhe_parties.service.identity import Identity, identity_of

__all__ = [
    "AUTHORITY_FILE",
    "CERTIFICATE_FILE",
    "KEY_FILE",
    "CredentialFiles",
    "Credentials",
    "load_certificates",
    "load_identity",
    "load_key",
    "signed_by",
]

CERTIFICATE_FILE = "certificate.pem"
KEY_FILE = "key.pem"
AUTHORITY_FILE = "authority.pem"


@dataclass(frozen=True)
class CredentialFiles:
    """Where the three parts lie."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def in_folder(cls, folder: Path) -> CredentialFiles:
        """In a party's folder, under their usual names."""
        return cls(folder / CERTIFICATE_FILE, folder / KEY_FILE, folder / AUTHORITY_FILE)


@dataclass(frozen=True)
class Credentials:
    """What a party shows on its links, in PEM, whom it stands for, and when it ends."""

    identity: Identity
    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes
    serial: int
    not_after: datetime.datetime


def load_identity(place: Path | CredentialFiles, *roles: str) -> Credentials:
    """Load and check what a party needs for its links.

    Args:
        place: the party's folder, or its three files.
        roles: those that will do; any where none is given.

    Raises:
        CredentialsError: a file is missing or holds something else, others may read the key, the key belongs to another
            certificate, the certificate or the authority has ended or has not begun, was signed by another authority,
            names nobody, or is of another role.
    """
    files = CredentialFiles.in_folder(place) if isinstance(place, Path) else place
    chain = load_certificates(files.certificate, "certificate")
    key = load_key(files.key)
    authorities = load_certificates(files.authority, "certificate of the authority")
    own = chain[0]
    if own.public_key() != key.public_key():
        raise CredentialsError(f"key {str(files.key)!r} does not belong to certificate {str(files.certificate)!r}")
    _check_time(own, f"certificate {str(files.certificate)!r}")
    signers = [authority for authority in authorities if signed_by(own, authority)]
    if not signers:
        raise CredentialsError(f"certificate {str(files.certificate)!r} is not signed by {str(files.authority)!r}")
    _check_time(signers[0], f"authority {str(files.authority)!r}")
    identity = identity_of(_pem([own]))
    if roles and identity.role not in roles:
        raise CredentialsError(
            f"certificate {str(files.certificate)!r} is for {identity.role}; needed: {' or '.join(roles)}"
        )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Credentials(identity, _pem(chain), private, _pem(authorities), own.serial_number, own.not_valid_after_utc)


def load_certificates(path: Path, what: str) -> list[x509.Certificate]:
    """The certificates in a PEM file, at least one.

    Raises:
        CredentialsError: missing, unreadable or none in it.
    """
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise CredentialsError(f"cannot read the {what} {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise CredentialsError(f"{str(path)!r} holds no certificate in PEM") from error


def load_key(path: Path) -> PrivateKeyTypes:
    """The private key in a PEM file that nobody but its owner may read.

    Raises:
        CredentialsError: missing, open to others, encrypted or none in it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise CredentialsError(f"key {str(path)!r} is open to others (mode {mode:04o}; needed: 0600 or 0400)")
            return serialization.load_pem_private_key(file.read(), password=None)
    except OSError as error:
        raise CredentialsError(f"cannot read the key {str(path)!r}: {error.strerror}") from error
    except TypeError as error:
        raise CredentialsError(f"key {str(path)!r} is encrypted; a key without a passphrase is needed") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialsError(f"{str(path)!r} holds no private key in PEM") from error


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority issued the certificate itself."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_time(certificate: x509.Certificate, what: str) -> None:
    now, begin, end = (
        datetime.datetime.now(datetime.UTC),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
    if now >= end:
        raise CredentialsError(f"{what} expired at {end:%Y-%m-%d %H:%M} UTC")
    if now < begin:
        raise CredentialsError(f"{what} is valid from {begin:%Y-%m-%d %H:%M} UTC on; it is {now:%Y-%m-%d %H:%M} here")


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)
