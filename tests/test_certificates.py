"""Certificates: who may speak for whom, and real handshakes with everybody who may not."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import IO, NamedTuple

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rhe_parties.cli.main import main
from rhe_parties.errors import CredentialsError, ParameterError
from rhe_parties.service import authority
from rhe_parties.service.authority import issue, new_deployment, revoke, rows_of
from rhe_parties.service.certificates import CredentialFiles, load_identity
from rhe_parties.service.identity import CLIENT, OPERATOR, Identity, identity_of, serial_of
from rhe_parties.service.revocation import RevocationList, add_serial, parse_serial, serial_text
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployments") / "hospital"
    new_deployment("hospital", folder, ["alice", "bob"])
    return folder


def _exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "party", "uri"),
    [
        (Identity("hospital", KEY_HOLDER), KEY_HOLDER, "rhe://hospital/key-holder/key-holder"),
        (Identity("hospital", DATA_OWNER), DATA_OWNER, "rhe://hospital/data-owner/data-owner"),
        (Identity("hospital", OPERATOR), LABORATORY, "rhe://hospital/operator/operator"),
        (Identity("hospital", CLIENT, "alice"), "client:alice", "rhe://hospital/client/alice"),
    ],
)
def test_an_identity_is_its_uri_and_has_a_name_on_envelopes(identity: Identity, party: str, uri: str) -> None:
    assert (identity.party, identity.uri) == (party, uri)
    assert identity_of([uri, *filter(None, [identity.server_name])]) == identity


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "0 names"),
        (["rhe://hospital/client/a", "rhe://hospital/client/b"], "2 names"),
        (["rhe://hospital/client"], "is not rhe://DEPLOYMENT/ROLE/NAME"),
        (["rhe://hospital/client/"], "is not rhe://DEPLOYMENT/ROLE/NAME"),
        (["rhe://hospital/client/a/b"], "is not rhe://DEPLOYMENT/ROLE/NAME"),
        (["rhe://Hospital/client/a"], "deployment name 'Hospital' is not allowed"),
        (["rhe://hospital/client/a b"], "client name 'a b' is not allowed"),
        (["rhe://hospital/client/-a"], "client name '-a' is not allowed"),
        (["rhe://hospital/operator/key-holder"], "there is one operator"),
        (["rhe://hospital/client/a", "key-holder.hospital.rhe.internal"], "also holds the name 'key-holder"),
        (["rhe://hospital/model-host/model-host", "key-holder.hospital.rhe.internal"], "also holds the name"),
    ],
)
def test_names_that_stand_for_nobody_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(CredentialsError, match=message):
        identity_of(names)


def test_an_unknown_role_names_the_nearest() -> None:
    with pytest.raises(ParameterError, match="did you mean 'key-holder'"):
        identity_of(["rhe://hospital/keyholder/keyholder"])
    with pytest.raises(CredentialsError, match="no certificate in PEM"):
        identity_of(b"nonsense")


# ---- making ----------------------------------------------------------------------------------------------------------


def test_a_deployment_has_a_folder_for_every_party_and_open_to_nobody_else(hospital: Path) -> None:
    parties = {"model-host", "key-holder", "data-owner", "operator", "client-alice", "client-bob"}
    assert {path.name for path in hospital.iterdir()} == {"authority", *parties}
    for folder in [hospital, *hospital.iterdir()]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    for file in hospital.glob("*/*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for name in parties:
        credentials = load_identity(hospital / name)
        role, _, client = name.partition("-") if name.startswith("client-") else (name, "", "")
        assert credentials.identity == Identity("hospital", role, client)
        assert credentials.serial == serial_of(credentials.certificate)
        assert b"PRIVATE" in credentials.key
        assert "PRIVATE" not in repr(credentials)


def test_servers_alone_have_a_dns_name_and_may_serve(hospital: Path) -> None:
    for row in rows_of(hospital)[1:]:
        folder = f"client-{row.name}" if row.role == CLIENT else row.role
        certificate = x509.load_pem_x509_certificate((hospital / folder / "certificate.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        serves = row.role in (MODEL_HOST, KEY_HOLDER)
        expected = [f"{row.role}.hospital.rhe.internal"] if serves else []
        assert names.get_values_for_type(x509.DNSName) == expected
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert (x509.ExtendedKeyUsageOID.SERVER_AUTH in purposes) == serves
        assert x509.ExtendedKeyUsageOID.CLIENT_AUTH in purposes
        assert certificate.not_valid_before_utc < datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=4)


def test_nothing_is_overwritten_and_nothing_is_left_half_made(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {path: path.read_bytes() for path in hospital.glob("*/key.pem")}
    with pytest.raises(CredentialsError, match="there already"):
        new_deployment("hospital", hospital, ["alice"])
    with pytest.raises(CredentialsError, match="there already"):
        issue(hospital, CLIENT, "alice")
    assert keys == {path: path.read_bytes() for path in hospital.glob("*/key.pem")}

    written: list[int] = []

    def full(descriptor: int, mode: str) -> IO[bytes]:
        written.append(descriptor)
        if len(written) == 5:
            os.close(descriptor)
            raise OSError(28, "No space left on device")
        return fdopen(descriptor, mode)

    fdopen = os.fdopen
    monkeypatch.setattr(authority.os, "fdopen", full)
    with pytest.raises(CredentialsError, match="No space left"):
        new_deployment("clinic", tmp_path / "clinic", ["alice"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new", "Hospital", "--out", "x"], "deployment name 'Hospital' is not allowed"),
        (["new", "hospital", "--out", "x", "--client", "a/b"], "client name 'a/b' is not allowed"),
        (["new", "hospital", "--out", "x", "--client", "a", "--client", "a"], "one is named twice"),
        (["new", "hospital", "--out", "x", "--days", "0"], "allowed: 1 to 1825"),
        (["issue", "x", "client", "a"], "cannot read the certificate of the authority"),
        (["show", "x"], "cannot read the certificate 'x'"),
    ],
)
def test_mistakes_cost_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _exit_code(["certificates", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_the_commands_make_issue_revoke_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "clinic")
    assert _exit_code(["certificates", "new", "clinic", "--out", folder]) == 0
    text = capsys.readouterr().out
    assert "rhe://clinic/client/alice" in text
    assert "keep it off the machines" in text
    assert _exit_code(["certificates", "issue", folder, "client", "carol", "--days", "30"]) == 0
    assert _exit_code(["certificates", "issue", folder, "operator", "carol"]) == 2
    assert _exit_code(["certificates", "issue", folder, "clinet", "carol"]) == 2
    assert "did you mean 'client'" in capsys.readouterr().err
    assert _exit_code(["certificates", "revoke", folder, "client-carol"]) == 0
    assert _exit_code(["certificates", "revoke", folder, "client-dora"]) == 2
    capsys.readouterr()
    assert _exit_code(["certificates", "show", folder, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["state"] for row in rows} == {
        "authority": "valid", "alice": "valid", "carol": "revoked", "data-owner": "valid", "key-holder": "valid",
        "model-host": "valid", "operator": "valid",
    }  # fmt: skip
    assert {row["deployment"] for row in rows} == {"clinic"}
    assert _exit_code(["certificates", "show", f"{folder}/key-holder"]) == 0
    assert "key-holder" in capsys.readouterr().out


# ---- loading ---------------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_credentials_is_said_at_once(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = CredentialFiles.in_folder(hospital / "client-alice")
    bob = CredentialFiles.in_folder(hospital / "client-bob")

    def refused(message: str, files: CredentialFiles, *roles: str) -> None:
        with pytest.raises(CredentialsError, match=message):
            load_identity(files, *roles)

    refused("does not belong to", CredentialFiles(alice.certificate, bob.key, alice.authority))
    refused("is for client; needed: key-holder or model-host", alice, KEY_HOLDER, MODEL_HOST)
    refused("cannot read the key .*No such file", CredentialFiles(alice.certificate, tmp_path / "k", alice.authority))
    refused("holds no certificate", CredentialFiles(alice.key, alice.key, alice.authority))
    other = tmp_path / "other"
    new_deployment("hospital", other, ["alice"])
    refused("is not signed by", CredentialFiles(alice.certificate, alice.key, other / "authority" / "certificate.pem"))
    open_key = tmp_path / "key.pem"
    shutil.copy(alice.key, open_key)
    open_key.chmod(0o640)
    refused("open to others \\(mode 0640", CredentialFiles(alice.certificate, open_key, alice.authority))
    open_key.chmod(0o600)
    open_key.write_text("nonsense")
    refused("holds no private key", CredentialFiles(alice.certificate, open_key, alice.authority))
    old = CredentialFiles.in_folder(_expired(hospital, tmp_path / "old", monkeypatch))
    refused("expired at 20", old)
    monkeypatch.setattr(authority, "_now", lambda: datetime.datetime(2099, 1, 1, tzinfo=datetime.UTC))
    new_deployment("hospital", tmp_path / "future", [])
    refused("is valid from 2098-12-31 23:55 UTC on", CredentialFiles.in_folder(tmp_path / "future" / "operator"))


def _expired(hospital: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    now = datetime.datetime.now(datetime.UTC)
    with monkeypatch.context() as patch:
        patch.setattr(authority, "_now", lambda: now - datetime.timedelta(days=3))
        return issue(hospital, CLIENT, "alice", out, days=1).folder


def test_no_certificate_outlives_its_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    folder = tmp_path / "clinic"
    with monkeypatch.context() as patch:
        patch.setattr(authority, "_now", lambda: now - datetime.timedelta(days=authority.AUTHORITY_DAYS - 10))
        new_deployment("clinic", folder, [])
    assert issue(folder, CLIENT, "late").not_after == now + datetime.timedelta(days=10)
    monkeypatch.setattr(authority, "_now", lambda: now + datetime.timedelta(days=11))
    with pytest.raises(CredentialsError, match=r"the authority in .* ended at"):
        issue(folder, CLIENT, "later")


# ---- revoking --------------------------------------------------------------------------------------------------------


def test_a_revocation_list_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "revoked.txt"
    revoked = RevocationList(path)
    assert not revoked.holds(0xAB)
    path.write_text("# lost laptop\nAB  # alice\n\n01:02\n")
    assert revoked.holds(0xAB)
    assert revoked.holds(0x102)
    add_serial(path, 0xCD, "bob\nwith a\nlong name")
    add_serial(path, 0xCD, "again")
    assert revoked.holds(0xCD)
    assert path.read_text().count("cd") == 1
    path.write_text("ab\nnonsense\n")
    assert revoked.holds(0xCD)  # a damaged list sets nobody free
    assert "line 2 of the revocation list" in caplog.text
    path.unlink()
    assert revoked.holds(0xCD)
    assert "has gone" in caplog.text
    path.write_text("ab\n")
    assert not revoked.holds(0xCD)
    path.write_text("nonsense\n")
    with pytest.raises(CredentialsError, match="line 1 of the revocation list"):
        RevocationList(path)


def test_revoking_names_a_folder_of_this_authority_or_a_serial(tmp_path: Path) -> None:
    folder, other = tmp_path / "clinic", tmp_path / "other"
    new_deployment("clinic", folder, ["alice"])
    new_deployment("clinic", other, ["mallory"])
    serial, lists = revoke(folder, "client-alice")
    assert serial == load_identity(folder / "client-alice").serial
    assert [path.parent.name for path in lists] == ["authority", "model-host", "key-holder"]
    assert all(RevocationList(path).holds(serial) for path in lists)
    assert revoke(folder, serial_text(7))[0] == parse_serial("07") == 7
    for wrong in (str(other / "client-mallory"), "authority"):
        with pytest.raises(CredentialsError, match="was not issued by the authority"):
            revoke(folder, wrong)


# ---- handshakes ------------------------------------------------------------------------------------------------------


class _Pem(NamedTuple):
    key: bytes
    certificate: bytes
    authority: bytes


def _pem(folder: Path) -> _Pem:
    """The files as they are, without the checks of `load_identity`."""
    return _Pem(*((folder / name).read_bytes() for name in ("key.pem", "certificate.pem", "authority.pem")))


def _serve(pem: _Pem) -> tuple[grpc.Server, str]:
    def who(_request: bytes, context: grpc.ServicerContext) -> bytes:
        found = context.auth_context()
        names = [name.decode() for name in found["x509_subject_alternative_name"]]
        (certificate,) = found["x509_pem_cert"]
        assert identity_of(names) == identity_of(certificate)
        return f"{identity_of(names).party} {serial_of(certificate)}".encode()

    server = grpc.server(futures.ThreadPoolExecutor(2))
    methods = {"who": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    credentials = grpc.ssl_server_credentials([(pem.key, pem.certificate)], pem.authority, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, f"127.0.0.1:{port}"


def _ask(channel: grpc.Channel) -> str:
    with channel:
        answer: bytes = channel.unary_unary("/test/who")(b"", timeout=10)
    return answer.decode()


def _channel(address: str, pem: _Pem, role: str = KEY_HOLDER) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(pem.authority, pem.key or None, pem.certificate or None)
    name = ("grpc.ssl_target_name_override", Identity("hospital", role).server_name)
    return grpc.secure_channel(address, credentials, options=[name])


def _dial(address: str, pem: _Pem, role: str = KEY_HOLDER) -> str:
    return _ask(_channel(address, pem, role))


@pytest.fixture(scope="module")
def key_holder(hospital: Path) -> Iterator[str]:
    server, address = _serve(_pem(hospital / "key-holder"))
    yield address
    server.stop(None)


def test_every_party_of_the_deployment_is_known_by_its_certificate(hospital: Path, key_holder: str) -> None:
    for folder in ("client-alice", "model-host", "data-owner", "operator"):
        credentials = load_identity(hospital / folder)
        answer = _dial(key_holder, _Pem(credentials.key, credentials.certificate, credentials.authority))
        assert answer == f"{credentials.identity.party} {credentials.serial}"


def _self_signed(uri: str, authority_pem: bytes) -> _Pem:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client:alice")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _Pem(private, certificate.public_bytes(serialization.Encoding.PEM), authority_pem)


@pytest.fixture(params=["self-signed", "expired", "another authority", "no certificate", "plaintext"])
def intruder(
    request: pytest.FixtureRequest, hospital: Path, key_holder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> grpc.Channel:
    alice = _pem(hospital / "client-alice")
    if request.param == "plaintext":
        return grpc.insecure_channel(key_holder)
    if request.param == "self-signed":
        pem = _self_signed("rhe://hospital/client/alice", alice.authority)
    elif request.param == "expired":
        pem = _pem(_expired(hospital, tmp_path / "old", monkeypatch))
    elif request.param == "another authority":
        new_deployment("hospital", tmp_path / "other", ["alice"])
        pem = _pem(tmp_path / "other" / "client-alice")._replace(authority=alice.authority)
    else:
        pem = _Pem(b"", b"", alice.authority)
    return _channel(key_holder, pem)


def test_nobody_else_gets_a_link(intruder: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        _ask(intruder)
    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("impostor", ["model-host", "client-alice", "another authority"])
def test_no_other_certificate_stands_in_for_a_server(impostor: str, hospital: Path, tmp_path: Path) -> None:
    own = _pem(hospital / "client-bob")
    if impostor == "another authority":
        new_deployment("hospital", tmp_path / "other", [])
        pem = _pem(tmp_path / "other" / "key-holder")
    else:
        pem = _pem(hospital / impostor)
    server, address = _serve(pem._replace(authority=own.authority))
    try:
        with pytest.raises(grpc.RpcError) as refusal:
            _dial(address, own)
        assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
        if impostor == "model-host":  # which is what it is, and dialled as such it answers
            assert _dial(address, own, MODEL_HOST).startswith("client:bob ")
    finally:
        server.stop(None)
