"""A deployment's authority and the certificates that it issues; TLS checks the chain, `identity` reads who it is.

A server's certificate alone carries the DNS name of its role, and whoever dials checks that name: so no other
certificate of the deployment can stand in for a server, whatever address it answers at. Keys are on P-256, which every
TLS library takes. They are written as they are: the folder of a party is worth as much as its key.
"""

from __future__ import annotations

import datetime
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rhe_parties.errors import CredentialsError
from rhe_parties.service.certificates import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    load_certificates,
    load_key,
    signed_by,
)
from rhe_parties.service.identity import CLIENT, ROLES, SERVERS, Identity, check_label, identity_of
from rhe_parties.service.revocation import REVOKED_FILE, RevocationList, add_serial, parse_serial

__all__ = ["AUTHORITY", "AUTHORITY_DAYS", "LEAF_DAYS", "CertificateRow", "Issued", "issue", "new_deployment", "revoke",
           "rows_of"]  # fmt: skip

AUTHORITY = "authority"
AUTHORITY_DAYS = 5 * 365
LEAF_DAYS = 365
# Clocks of the parties' machines differ.
_BACKDATED = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Issued:
    """A certificate that was made: whose, in which folder, and until when."""

    identity: Identity
    folder: Path
    not_after: datetime.datetime


@dataclass(frozen=True)
class CertificateRow:
    """What a certificate says; `role` is `authority` for the one that signs, `state` valid, expired or revoked."""

    deployment: str
    role: str
    name: str
    serial: int
    not_after: datetime.datetime
    state: str


@dataclass(frozen=True)
class _Authority:
    """A deployment's authority with its key."""

    deployment: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, deployment: str) -> _Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, deployment),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{deployment[:53]} authority"),
        ])  # fmt: skip
        start = _now()
        builder = _builder(name, name, key, start, start + datetime.timedelta(days=AUTHORITY_DAYS))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        return cls(deployment, builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, folder: Path) -> _Authority:
        """Of the deployment below `folder`."""
        place = folder / AUTHORITY
        certificate = load_certificates(place / CERTIFICATE_FILE, "certificate of the authority")[0]
        if certificate.not_valid_after_utc <= _now():
            raise CredentialsError(
                f"the authority in {str(place)!r} ended at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
            )
        key = load_key(place / KEY_FILE)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise CredentialsError(f"key {str(place / 'key.pem')!r} does not belong to the authority's certificate")
        return cls(_organisation(certificate), certificate, key)

    def issue(self, identity: Identity, folder: Path, days: int) -> Issued:
        """Write a new key, its certificate and the authority's into a new folder."""
        key = ec.generate_private_key(ec.SECP256R1())
        start = _now()
        end = min(start + datetime.timedelta(days=days), self.certificate.not_valid_after_utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.party[:64])])
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if identity.role in SERVERS:
            names.append(x509.DNSName(identity.server_name))
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = _builder(subject, self.certificate.subject, key, start, end)
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(signs_certificates=False), True),
            (x509.ExtendedKeyUsage(purposes), False),
            (x509.SubjectAlternativeName(names), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        _write(folder, builder.sign(self.key, hashes.SHA256()), key, self.certificate)
        return Issued(identity, folder, end)


def new_deployment(deployment: str, folder: Path, clients: Iterable[str], days: int = LEAF_DAYS) -> list[Issued]:
    """Make an authority and the certificates of all parties, each in a folder of its own below a new `folder`.

    The folders are `authority`, those of the roles, and `client-NAME` for each client. All are made or none.

    Raises:
        CredentialsError: a name or `days` is not allowed, or the folder is not empty or cannot be written.
    """
    check_label(deployment, "deployment name")
    _check_days(days)
    clients = list(clients)
    identities = [Identity(deployment, role) for role in ROLES if role != CLIENT]
    identities += [Identity(deployment, CLIENT, name) for name in clients]
    if len(set(identities)) < len(identities):
        raise CredentialsError(f"clients {', '.join(clients)[:200]!r} are not allowed: one is named twice")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CredentialsError(f"{str(folder)!r} is there already: keys are never overwritten, so name a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".rhe-", dir=folder.parent))
        try:
            authority = _Authority.new(deployment)
            _write(draft / AUTHORITY, authority.certificate, authority.key, None)
            issued = [authority.issue(identity, draft / _folder_name(identity), days) for identity in identities]
            os.rename(draft, folder)
        except BaseException:
            shutil.rmtree(draft)
            raise
    except OSError as error:
        raise CredentialsError(f"cannot write {str(folder)!r}: {error.strerror}") from error
    return [Issued(item.identity, folder / item.folder.name, item.not_after) for item in issued]


def issue(folder: Path, role: str, name: str = "", out: Path | None = None, days: int = LEAF_DAYS) -> Issued:
    """One more certificate by the authority of a deployment: a new client's, or one in place of another.

    Args:
        folder: of the deployment, with the authority's key in it.
        role: one of `identity.ROLES`.
        name: of a client; other roles have none.
        out: new folder for it; by default below `folder`, named after the party.
        days: of validity; it ends with the authority's at the latest.

    Raises:
        CredentialsError: no authority there, or it ended; a value is not allowed; `out` exists.
        ParameterError: the role is unknown.
    """
    _check_days(days)
    authority = _Authority.load(folder)
    identity = Identity(authority.deployment, role, name)
    target = out if out is not None else folder / _folder_name(identity)
    try:
        return authority.issue(identity, target, days)
    except FileExistsError:
        raise CredentialsError(
            f"{str(target)!r} is there already: keys are never overwritten, so name a new folder"
        ) from None
    except OSError as error:
        raise CredentialsError(f"cannot write {str(target)!r}: {error.strerror}") from error


def revoke(folder: Path, which: str) -> tuple[int, list[Path]]:
    """Add a certificate to the revocation lists below a deployment's folder: the authority's, and each server's.

    Args:
        folder: of the deployment.
        which: a party's folder (its path, or its name below `folder`), or a serial number in hexadecimal.

    Returns:
        The serial number, and the lists that hold it now.

    Raises:
        CredentialsError: neither a folder with a certificate of this authority nor a serial number.
    """
    authority = load_certificates(folder / AUTHORITY / CERTIFICATE_FILE, "certificate of the authority")[0]
    place = next((p for p in (folder / which, Path(which)) if (p / CERTIFICATE_FILE).is_file()), None)
    comment = ""
    if place is None:
        serial = parse_serial(which)
    else:
        certificate = load_certificates(place / CERTIFICATE_FILE, "certificate")[0]
        if place.name == AUTHORITY or not signed_by(certificate, authority):
            raise CredentialsError(
                f"the certificate in {str(place)!r} was not issued by the authority of {str(folder)!r}"
            )
        serial, comment = certificate.serial_number, _row(certificate, frozenset()).name
    holders = [folder / name for name in (AUTHORITY, *SERVERS) if (folder / name).is_dir()]
    lists = [holder / REVOKED_FILE for holder in holders]
    for path in lists:
        add_serial(path, serial, comment)
    return serial, lists


def rows_of(place: Path) -> list[CertificateRow]:
    """What the certificate in a file, in a party's folder, or each of those in a deployment's folder says.

    Raises:
        CredentialsError: there is none.
    """
    if place.is_dir():
        files = sorted(place.glob(CERTIFICATE_FILE)) or sorted(place.glob(f"*/{CERTIFICATE_FILE}"))
        if not files:
            raise CredentialsError(f"no {CERTIFICATE_FILE} in {str(place)!r} nor in the folders below it")
    else:
        files = [place]
    revoked: set[int] = set()
    for folder in {parent for file in files for parent in (file.parent, file.parent.parent / AUTHORITY)}:
        revoked |= RevocationList(folder / REVOKED_FILE).serials
    return [_row(load_certificates(file, "certificate")[0], frozenset(revoked)) for file in files]


def _row(certificate: x509.Certificate, revoked: frozenset[int]) -> CertificateRow:
    serial, end = certificate.serial_number, certificate.not_valid_after_utc
    state = "revoked" if serial in revoked else "expired" if end <= _now() else "valid"
    if certificate.subject == certificate.issuer:
        return CertificateRow(_organisation(certificate), AUTHORITY, AUTHORITY, serial, end, state)
    identity = identity_of(certificate.public_bytes(serialization.Encoding.PEM))
    return CertificateRow(identity.deployment, identity.role, identity.name, serial, end, state)


def _organisation(certificate: x509.Certificate) -> str:
    """The deployment that an authority's certificate names."""
    values = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(values) != 1:
        raise CredentialsError("the authority's certificate names no deployment: it was not made by this program")
    return str(values[0].value)


def _folder_name(identity: Identity) -> str:
    return f"{CLIENT}-{identity.name}" if identity.role == CLIENT else identity.role


def _check_days(days: int) -> None:
    if not 1 <= days <= AUTHORITY_DAYS:
        raise CredentialsError(f"days = {days} is not allowed (allowed: 1 to {AUTHORITY_DAYS})")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)  # certificates count whole seconds


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    """An authority signs certificates and nothing else; a party signs handshakes and nothing else."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _write(
    folder: Path,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate | None,
) -> None:
    """Fill a new folder; the authority's own holds no second copy of its certificate."""
    folder.mkdir(mode=0o700)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = {CERTIFICATE_FILE: certificate.public_bytes(serialization.Encoding.PEM), KEY_FILE: private}
    if authority is not None:
        files[AUTHORITY_FILE] = authority.public_bytes(serialization.Encoding.PEM)
    try:
        for name, data in files.items():
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
    except BaseException:
        shutil.rmtree(folder)
        raise
